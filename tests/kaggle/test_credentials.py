"""No key leaves: every verb that talks to Kaggle, in success and in each failure, with recognisable
keys in the environment and in files.
"""
# ruff: noqa: F811  (fixtures are imported by name)

import argparse
import base64
import json
import logging
import stat
import sys
from pathlib import Path

import pytest
from fake_kaggle import KEY, TOKEN, USER, Trouble, client_home, fake  # noqa: F401
from test_push import chain, dataset, kernel, left
from test_work import job_file, obliging, quick_build

from cellsignal.common.errors import InputError
from cellsignal.fetch.kaggle import CREDENTIALS, kaggle_client, redact, warn_of_modes
from cellsignal.kaggle import api
from cellsignal.kaggle import commands as verbs
from cellsignal.kaggle import work as work_module

pytestmark = pytest.mark.slow

BASIC = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
HIDDEN = (KEY, TOKEN, BASIC, KEY[:12], TOKEN[:15])


def command(function, **arguments):
    """A verb as the command line runs it: its exit status."""
    try:
        function(argparse.Namespace(**arguments))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def sign_in_by(way, home, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    files = {"kaggle.json": json.dumps({"username": USER, "key": KEY}), "access_token": TOKEN}
    if way in files:
        (home / ".kaggle" / way).write_text(files[way])
        (home / ".kaggle" / way).chmod(0o600)
    elif way == "token variable":
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    else:
        monkeypatch.setenv("KAGGLE_USERNAME", USER)
        monkeypatch.setenv("KAGGLE_KEY", KEY)


def no_key_in(folder, apart=()):
    for path in folder.rglob("*"):
        if path.is_file() and path not in apart:
            content = path.read_bytes()
            assert not [word for word in HIDDEN if word.encode() in content], path


@pytest.fixture
def logged(caplog, monkeypatch):
    """Everything that any library logs, from DEBUG on."""
    monkeypatch.setenv("VERBOSE", "true")  # makes Kaggle's client print every header
    caplog.set_level(logging.DEBUG)
    return caplog


FAILURES = [None, 401, 403, 404, 429, 500, "cut", "lost"]
WAYS = ["variables", "token variable", "kaggle.json", "access_token"]


@pytest.mark.parametrize(
    "way, failure",
    [(WAYS[0], failure) for failure in FAILURES]
    + [(way, None) for way in WAYS[1:]]
    + [(WAYS[3], 500)],
)
def test_no_verb_tells_a_key(fake, client_home, tmp_path, monkeypatch, capfd, logged, way, failure):
    sign_in_by(way, client_home, monkeypatch)
    monkeypatch.setattr(work_module, "build", quick_build)
    monkeypatch.setattr(api, "ATTEMPTS", 2)
    space = tmp_path / "space"
    space.mkdir()
    job = job_file(space, folds=[0], store="store")
    mine = TOKEN if "token" in way else KEY  # what cannot be known cannot be told from other words
    # a kernel that printed what it must not
    echo = f"Authorization: Basic {BASIC} Bearer {TOKEN} {mine}\n"
    files = {"runs/a": b"a"}
    left(
        fake,
        files | {"chain.json": chain(files)},
        json.dumps([{"data": echo}]),
        slug=f"{USER}/other-kernel",
    )
    fake.outcome = obliging()
    if failure:
        for request in (
            "SaveKernel",
            "CreateDataset",
            "GetKernelSessionStatus",
            "ListKernelSessionOutput",
        ):
            fake.always[request] = Trouble(failure)
    statuses = [
        command(verbs.push, folder=kernel(space / "kernel")),
        command(verbs.push, folder=dataset(space / "dataset")),
        command(verbs.status, what=f"{USER}/other-kernel", out=space),
        command(
            verbs.pull,
            slug=f"{USER}/other-kernel",
            out=space / "pulled",
            only=None,
            wait=True,
            every=0.001,
        ),
        command(verbs.run, job=job, out=space / "build", every=0.001, parallel=2, keep=True),
    ]
    said = capfd.readouterr()
    text = said.out + said.err + logged.text
    assert not [word for word in HIDDEN if word in text], text
    assert statuses == (
        [0, 0, 0, 0, 0] if failure is None else [0, 0, 2, 2, 2] if failure == "lost" else [2] * 5
    ), said.err
    assert len([line for line in said.err.splitlines() if line]) == statuses.count(2), said.err
    no_key_in(space)
    no_key_in(
        client_home,
        apart=[client_home / ".kaggle" / name for name in ("kaggle.json", "access_token")],
    )
    if failure is None:
        assert (
            space / "pulled" / "other-kernel.log"
        ).read_text() == "Authorization: Basic *** Bearer *** ***\n"
    elif failure in (401, 403):
        assert said.err.count("https://www.kaggle.com/settings") == 5


@pytest.mark.parametrize("way", WAYS)
def test_wrong_keys_are_refused_in_one_line_without_them(
    fake, client_home, monkeypatch, capfd, way, tmp_path
):
    sign_in_by(way, client_home, monkeypatch)
    import fake_kaggle

    monkeypatch.setattr(fake_kaggle, "KEY", "another")
    monkeypatch.setattr(fake_kaggle, "TOKEN", "another")
    assert command(verbs.push, folder=kernel(tmp_path / "kernel")) == 2
    said = capfd.readouterr()
    assert (
        said.out == ""
        and said.err.count("\n") == 1
        and "https://www.kaggle.com/settings" in said.err
    )
    assert not [word for word in HIDDEN if word in said.err]
    assert len(fake.requests) <= 2


def test_no_keys_are_one_line_that_says_where_they_go(client_home, capfd):
    with pytest.raises(InputError) as error:
        kaggle_client()
    assert str(error.value) == CREDENTIALS and "\n" not in CREDENTIALS
    assert capfd.readouterr() == ("", "")


def test_signing_in_is_tried_again(fake, client_home, monkeypatch):
    """A token is looked up at Kaggle; a server in trouble says nothing about the token."""
    sign_in_by("access_token", client_home, monkeypatch)
    fake.trouble("IntrospectToken", 500, "cut", 429)
    assert api.Kaggle().user == USER
    fake.always["IntrospectToken"] = Trouble(503)
    with pytest.raises(InputError, match=r"signing in to Kaggle: .*503.*tried"):
        api.Kaggle()


@pytest.mark.parametrize("name", ["kaggle.json", "access_token", "credentials.json"])
@pytest.mark.parametrize(
    "mode, warned",
    [(0o600, False), (0o400, False), (0o620, False), (0o640, True), (0o604, True), (0o644, True)],
)
def test_files_that_others_can_read_are_warned_of(client_home, caplog, name, mode, warned):
    """The modes are those that Kaggle's client looks at: read by the group, read by others."""
    path = client_home / ".kaggle" / name
    path.write_text("{}")
    path.chmod(mode)
    warn_of_modes()
    assert (
        [f"chmod 600 {path}" in record.message for record in caplog.records] == [True]
    ) == warned


def test_what_the_client_notes_of_uploads_is_for_the_user_alone(
    fake, client_home, tmp_path, monkeypatch
):
    """It holds an address that anyone may upload to."""
    monkeypatch.setattr(api, "ATTEMPTS", 1)
    fake.always["CreateDataset"] = Trouble(500)
    command(verbs.push, folder=dataset(tmp_path / "dataset"))
    notes = [path for path in client_home.rglob("*uploads*/*") if path.is_file()]
    assert notes and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in notes)


def test_redact_knows_what_this_user_has_and_what_looks_like_it(client_home, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    (client_home / ".kaggle" / "credentials.json").write_text(
        json.dumps({"refresh_token": "REFRESH-77", "access_token": "ACCESS-77", "username": USER})
    )
    said = redact(
        f"{TOKEN}, REFRESH-77\n ACCESS-77; Bearer abcdefgh; "
        f"https://u:p@x.org/a?X-Goog-Signature=abc&b=1 {USER}"
    )
    assert said == f"***, *** ***; Bearer ***; https://x.org/a?b=1&X-Goog-Signature=*** {USER}"
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    assert redact(f"a {BASIC} b {KEY}") == "a *** b ***"


def test_a_token_may_be_the_name_of_a_file(fake, client_home, monkeypatch, caplog):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    path = client_home / "mine"
    path.write_text(TOKEN + "\n")
    path.chmod(0o644)
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(path))
    assert api.Kaggle().user == USER
    assert redact(TOKEN) == "***" and f"chmod 600 {path}" in caplog.text


def test_a_built_kernel_holds_no_key(client_home, tmp_path, monkeypatch):
    from cellsignal.kaggle.build import build
    from cellsignal.kaggle.job import load_job, steps
    from cellsignal.kaggle.script import unpack

    for way in WAYS:
        sign_in_by(way, client_home, monkeypatch)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    job = load_job(job_file(tmp_path, folds=[0]))
    folder = build(job, steps(job)[1], 1, tmp_path / "out", USER, {})
    no_key_in(folder)
    text = (folder / "script.py").read_text()
    package = text.split('PACKAGE = """')[1].split('"""')[0]
    spec = json.loads(text.split('SPEC = r"""')[1].split('"""')[0])
    (tmp_path / "unpacked").mkdir()
    unpack(base64.b64decode(package), spec["package"], tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "config.yaml").is_file()
    no_key_in(tmp_path / "unpacked")
    assert not list(Path(tmp_path / "unpacked").rglob("kaggle.json"))
