"""Pushing, waiting and pulling: Kaggle's real client against a server on this machine."""
# ruff: noqa: F811  (fixtures are imported by name)

import hashlib
import json
import time

import pytest
from fake_kaggle import USER, FakeKaggle, Run, Trouble, client_home, fake  # noqa: F401

from cellsignal.common.errors import InputError
from cellsignal.fetch import kaggle as signing_in
from cellsignal.kaggle import api
from cellsignal.kaggle import push as module
from cellsignal.kaggle.api import Kaggle, Output, Refused
from cellsignal.kaggle.push import log_text, pull, push, slug_of, wait

SLUG = f"{USER}/tiny-fold0-1"


def kernel(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {
        "id": SLUG,
        "title": "tiny fold0 1",
        "code_file": "script.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "competition_sources": ["rxrx"],
        "kernel_sources": [f"{USER}/tiny-prepare-1"],
    } | changes
    (folder / "kernel-metadata.json").write_text(json.dumps(metadata))
    (folder / "script.py").write_text("print('hello')\n")
    return folder


def dataset(folder):
    folder.mkdir()
    metadata = {
        "id": f"{USER}/tiny-wheels",
        "title": "tiny wheels",
        "licenses": [{"name": "other"}],
    }
    (folder / "dataset-metadata.json").write_text(json.dumps(metadata))
    (folder / "a.whl").write_bytes(bytes(range(256)) * 4096)
    (folder / "b.whl").write_bytes(b"b" * 1000)
    return folder


def chain(files, **changes):
    """A chain.json that lists `files`, as bytes."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    status = {
        "job": "tiny",
        "step": "fold0",
        "link": 1,
        "done": True,
        "status": 0,
        "reason": "done",
        "hours": 0.5,
        "config": "c",
        "package": "p",
    }
    return json.dumps(status | {"files": sums} | changes).encode()


def left(fake, files, log="", slug=SLUG, **changes):
    """The kernel has run and left these files."""
    fake.kernels[slug].append(Run({"text": ""}, files, log, running_for=0, **changes))


def no_secret_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- push


def test_a_kernel_arrives_as_its_metadata_says(fake, tmp_path, capfd):
    url = push(Kaggle(), kernel(tmp_path / "k"))
    assert url == f"https://www.kaggle.com/code/{SLUG}"
    (sent,) = [body for name, body in fake.requests if name == "SaveKernel#done"]
    assert sent["slug"] == SLUG and sent["text"] == "print('hello')\n"
    assert (
        sent["enableGpu"] is True and sent["enableInternet"] is False and sent["isPrivate"] is True
    )
    assert sent["competitionDataSources"] == ["rxrx"] and sent["kernelDataSources"] == [
        f"{USER}/tiny-prepare-1"
    ]
    assert capfd.readouterr() == ("", "")


def test_a_data_set_is_created_then_gets_a_new_version_and_is_waited_for(
    fake, tmp_path, monkeypatch
):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    folder = dataset(tmp_path / "d")
    fake.dataset_states = ["READY"]  # the client's own question whether it is there
    push(Kaggle(), folder)
    expected = {name: (folder / name).read_bytes() for name in ("a.whl", "b.whl")}
    assert fake.datasets == {f"{USER}/tiny-wheels": [expected]}
    (folder / "b.whl").write_bytes(b"c")
    fake.dataset_states = ["BLOBS_RECEIVED", "BLOBS_DECOMPRESSED", "READY"]
    push(Kaggle(), folder)
    assert fake.datasets[f"{USER}/tiny-wheels"] == [expected, expected | {"b.whl": b"c"}]
    assert fake.dataset_states == []
    fake.dataset_states = ["FAILED"]
    with pytest.raises(InputError, match="could not process it"):
        push(Kaggle(), folder)


def test_a_file_whose_upload_breaks_is_taken_up_or_the_push_fails(fake, tmp_path, monkeypatch):
    """The client alone would leave the file out of the data set and say nothing."""
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    fake.trouble("PUT", 503)
    folder = dataset(tmp_path / "d")
    push(Kaggle(), folder)
    assert fake.datasets[f"{USER}/tiny-wheels"] == [
        {name: (folder / name).read_bytes() for name in ("a.whl", "b.whl")}
    ]
    (folder / "b.whl").write_bytes(b"d")
    fake.always["PUT"] = Trouble(400)
    with pytest.raises(InputError, match=r"upload of .\.whl failed \(tried"):
        push(Kaggle(), folder)
    assert len(fake.datasets[f"{USER}/tiny-wheels"]) == 1


@pytest.mark.parametrize("trouble", [429, 500, 502, 503, 504, "cut"])
def test_what_passes_is_tried_again(fake, tmp_path, trouble):
    fake.trouble("SaveKernel", trouble, trouble)
    push(Kaggle(), kernel(tmp_path / "k"))
    assert fake.pushed() == [SLUG]
    fake.trouble("GetKernelSessionStatus", trouble)
    assert Kaggle().session(SLUG).state in ("queued", "running", "complete")


def test_a_lost_answer_is_not_pushed_again(fake, tmp_path):
    fake.trouble("SaveKernel", "lost")
    url = push(Kaggle(), kernel(tmp_path / "k"))
    assert fake.pushed() == [SLUG] and fake.count("SaveKernel") == 1 and url.endswith(SLUG)
    fake.trouble("SaveKernel", "lost")  # a new version of what is there
    push(Kaggle(), kernel(tmp_path / "k"))
    assert fake.pushed() == [SLUG, SLUG] and fake.count("SaveKernel") == 2


def test_a_data_sets_lost_answer_is_not_pushed_again(fake, tmp_path):
    fake.trouble("CreateDataset", "lost")
    push(Kaggle(), dataset(tmp_path / "d"))
    assert fake.count("CreateDataset") == 1 and len(fake.datasets[f"{USER}/tiny-wheels"]) == 1


def test_retry_after_is_kept_and_bounded(fake, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(api.time, "sleep", slept.append)
    fake.trouble("SaveKernel", 429, 429, Retry_After="7")
    push(Kaggle(), kernel(tmp_path / "k"))
    assert slept == [7.0, 7.0]
    fake.trouble("SaveKernel", 429, Retry_After="86400")
    with pytest.raises(InputError, match="asks to come back in 86400 s"):
        push(Kaggle(), kernel(tmp_path / "k"))
    assert slept == [7.0, 7.0]


@pytest.mark.parametrize("trouble, said", [(429, "429"), (500, "500"), ("cut", "connection")])
def test_tries_are_bounded_and_end_in_one_line(fake, tmp_path, trouble, said):
    fake.always["SaveKernel"] = Trouble(trouble)
    with pytest.raises(InputError, match=rf"{SLUG}.*{said}.*tried {api.ATTEMPTS}x") as error:
        push(Kaggle(), kernel(tmp_path / "k"))
    no_secret_line(error)
    assert fake.count("SaveKernel") == api.ATTEMPTS and fake.pushed() == []


def test_no_answer_at_all_ends(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(signing_in, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(api, "ATTEMPTS", 2)
    fake.trouble("SaveKernel", "slow", "slow")
    with pytest.raises(InputError, match="no answer in time"):
        push(Kaggle(), kernel(tmp_path / "k"))


def test_no_server_is_one_line(fake, tmp_path):
    signed_in = Kaggle()
    fake.close()
    with pytest.raises(InputError, match=r"no connection.*tried") as error:
        push(signed_in, kernel(tmp_path / "k"))
    no_secret_line(error)


@pytest.mark.parametrize(
    "status, said",
    [(401, "kaggle.com/settings"), (403, "kaggle.com/settings"), (400, "answers 400")],
)
def test_what_stays_is_said_at_once(fake, tmp_path, status, said):
    fake.trouble("SaveKernel", status)
    with pytest.raises(Refused, match=said) as error:
        push(Kaggle(), kernel(tmp_path / "k"))
    no_secret_line(error)
    assert fake.count("SaveKernel") == 1


def test_wrong_credentials_are_said_at_once(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "wrongwrong")
    with pytest.raises(InputError, match="no valid Kaggle credentials"):
        Kaggle().session(SLUG)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("missing", [403, 404])
def test_a_kernel_that_nobody_has_is_new(fake, tmp_path, missing):
    fake.missing_status = missing
    assert Kaggle().versions(SLUG) == 0
    push(Kaggle(), kernel(tmp_path / "k"))
    assert Kaggle().versions(SLUG) == 1
    with pytest.raises(Refused):
        Kaggle().session(f"{USER}/other")


@pytest.mark.parametrize(
    "says, line",
    [
        (
            {"error": "Maximum batch GPU session count of 2 reached"},
            "Maximum batch GPU session count",
        ),
        ({"invalidCompetitionSources": ["rxrx"]}, "does not attach rxrx.*rules"),
        ({"invalidKernelSources": ["a/b"]}, "does not attach a/b"),
        (
            {"ref": f"/code/{USER}/tiny-fold0-1-again"},
            "which the next kernel of the chain would not find",
        ),
    ],
)
def test_a_push_that_kaggle_takes_but_not_as_asked_is_an_error(fake, tmp_path, says, line):
    fake.says = says
    with pytest.raises(InputError, match=line):
        push(Kaggle(), kernel(tmp_path / "k"))


@pytest.mark.parametrize(
    "changes", [{"id": "USER/tiny-fold0-1"}, {"dataset_sources": ["me/store", "USER/wheels"]}]
)
def test_a_folder_with_a_placeholder_owner_is_not_pushed(tmp_path, changes):
    with pytest.raises(
        InputError, match="'USER' only stands for a name; write your name on Kaggle"
    ):
        slug_of(kernel(tmp_path / "k", **changes))


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "neither"),
        ("{", "is not JSON"),
        ("[]", "is not JSON"),
        ('{"id": "x"}', "is not a slug"),
        ('{"id": "../../etc/x"}', "is not a slug"),
    ],
)
def test_a_folder_that_is_none_is_refused(tmp_path, content, said):
    if content:
        (tmp_path / "kernel-metadata.json").write_text(content)
    with pytest.raises(InputError, match=said):
        slug_of(tmp_path)


def test_the_clients_own_checks_are_one_line(fake, tmp_path):
    with pytest.raises(InputError, match="Title must be at least five characters"):
        push(Kaggle(), kernel(tmp_path / "k", title="abc"))


# ---- wait


def test_wait_ends_with_the_run_and_says_each_change(fake, caplog):
    fake.kernels[SLUG].append(Run({"text": ""}, running_for=4))
    with caplog.at_level("INFO"):
        assert wait(Kaggle(), SLUG, every=0.001).state == "complete"
    said = [record.message for record in caplog.records if "after" in record.message]
    assert [line.split(": ")[1].split()[0] for line in said] == ["running", "queued", "complete"]
    assert fake.count("GetKernelSessionStatus") == 5


def test_wait_tells_a_failure_and_gives_up_in_time(fake):
    fake.kernels[SLUG].append(
        Run({"text": ""}, running_for=0, state="ERROR", failure="out of memory")
    )
    session = wait(Kaggle(), SLUG, every=0.001)
    assert (session.state, session.failure, session.ended) == ("error", "out of memory", True)
    fake.kernels[SLUG].append(Run({"text": ""}, running_for=10**9))
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"is running after .* it goes on"):
        wait(Kaggle(), SLUG, every=0.01, timeout=0.05)
    assert time.monotonic() - begun < 5


# ---- pull

FILES = {
    "runs/a/model.pt": bytes(range(256)) * 2000,
    "runs/a/log.txt": b"text",
    "runs/b.json": b"{}",
    "store/zarr.json": b"{}",
}


def test_pull_brings_every_page_and_the_log(fake, tmp_path):
    log = [
        {"stream_name": "stdout", "time": 1, "data": "one\n  two\n"},
        {"stream_name": "stderr", "time": 2, "data": "three"},
    ]
    left(fake, FILES | {"submission.csv": b"id\n", "chain.json": chain(FILES)}, json.dumps(log))
    status = pull(Kaggle(), SLUG, tmp_path / "out")
    assert status.done and status.files.keys() == FILES.keys()
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found.pop("tiny-fold0-1.log") == b"one\n  two\nthree\n"
    assert found == FILES | {"submission.csv": b"id\n", "chain.json": chain(FILES)}


def test_pull_takes_nothing_twice_that_is_whole(fake, tmp_path):
    left(fake, FILES | {"chain.json": chain(FILES)})
    pull(Kaggle(), SLUG, tmp_path)
    (tmp_path / "runs/a/log.txt").write_bytes(b"damaged")
    before = fake.count("GET")
    pull(Kaggle(), SLUG, tmp_path)
    # chain.json and the damaged one
    assert fake.count("GET") - before == 2 and (tmp_path / "runs/a/log.txt").read_bytes() == b"text"


def test_a_new_run_replaces_what_chain_does_not_list(fake, tmp_path):
    left(fake, {"submission.csv": b"old", "chain.json": chain({}, link=1)})
    pull(Kaggle(), SLUG, tmp_path)
    left(fake, {"submission.csv": b"new", "chain.json": chain({}, link=2)})
    assert pull(Kaggle(), SLUG, tmp_path).link == 2
    assert (tmp_path / "submission.csv").read_bytes() == b"new"


def test_a_broken_download_is_taken_up(fake, tmp_path, monkeypatch):
    monkeypatch.setattr("cellsignal.fetch.fetcher.time.sleep", lambda seconds: None)
    left(fake, FILES | {"chain.json": chain(FILES)})
    at = sorted(fake.kernels[SLUG][0].files).index("runs/a/model.pt")
    fake.cut_files[f"{SLUG}/1/{at}"] = 2
    pull(Kaggle(), SLUG, tmp_path)
    assert (tmp_path / "runs/a/model.pt").read_bytes() == FILES["runs/a/model.pt"]
    ranges = [
        body["range"]
        for name, body in fake.requests
        if name == "GET" and body["path"] == f"{SLUG}/1/{at}"
    ]
    assert (
        len(ranges) == 3 and ranges[0] is None and all(int(text[6:-1]) > 0 for text in ranges[1:])
    )


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/evil", "..", "C:/evil", "a\\..\\evil", ".pull/evil", "a\0b"],
)
def test_a_name_that_leaves_the_folder_is_refused_and_nothing_is_written(fake, tmp_path, name):
    out = tmp_path / "deep" / "out"
    left(fake, {"good": b"good", name: b"evil"})
    with pytest.raises(InputError, match="would land outside"):
        pull(Kaggle(), SLUG, out)
    assert not out.exists() and not list(tmp_path.rglob("evil"))


def test_nothing_is_written_through_a_link(fake, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "runs").symlink_to(tmp_path / "elsewhere")
    left(fake, {"runs/x": b"evil"})
    with pytest.raises(InputError, match="through a link"):
        pull(Kaggle(), SLUG, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_damaged_and_missing_files_are_named(fake, tmp_path):
    left(fake, FILES | {"chain.json": chain(FILES | {"runs/b.json": b"another"})})
    with pytest.raises(InputError, match="sha256"):
        pull(Kaggle(), SLUG, tmp_path / "a")
    assert not (tmp_path / "a/runs/b.json").exists()
    left(fake, {"chain.json": chain(FILES)})
    with pytest.raises(
        InputError, match=r"lacks runs/a/log.txt, runs/a/model.pt, runs/b.json and 1 more"
    ):
        pull(Kaggle(), SLUG, tmp_path / "b")
    assert pull(Kaggle(), SLUG, tmp_path / "c", only=()).done  # the status alone
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "chain.json",
        "tiny-fold0-1.log",
    ]


def test_files_come_over_tls_alone(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Kaggle, "output", lambda self, slug: Output({"x": "http://example.org/x?token=abc"}, "")
    )
    with pytest.raises(InputError, match="only https") as error:
        pull(Kaggle(), SLUG, tmp_path)
    assert "abc" not in str(error.value)


def test_a_log_that_is_no_json_is_kept_as_it_is():
    assert log_text("one\ntwo") == "one\ntwo\n"
    assert log_text("") == ""
    assert log_text('{"data": 1}') == '{"data": 1}\n'


def test_the_fake_needs_the_key(fake):
    assert isinstance(fake, FakeKaggle) and Kaggle().user == USER
