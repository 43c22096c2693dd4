"""A parameter that a simulation does not have is refused with those that it has; every
competition's simulation.
"""

import inspect

import pytest
from helpers import error_line

from cellsignal.common.errors import InputError
from cellsignal.competitions import competition_ids, get_competition


@pytest.mark.parametrize("competition_id", competition_ids())
def test_an_unknown_parameter_names_the_known_ones(tmp_path, competition_id):
    competition = get_competition(competition_id)
    known = [name for name in competition.tiny_simulation if name != "size"]
    misspelt = known[0] + "x"
    with pytest.raises(
        InputError, match=f"no parameter '{misspelt}'; did you mean '{known[0]}'"
    ) as error:
        competition.simulate(tmp_path / "raw", 0, **{misspelt: 1})
    listed = str(error.value).partition("There are ")[2].split(", ")
    assert {*competition.tiny_simulation, "workers"} <= set(listed) and not {
        "competition",
        "out",
        "seed",
    } & set(listed)
    assert not (tmp_path / "raw").exists()


def test_the_command_line_says_so_in_a_line(tmp_path, capsys):
    line = error_line(
        capsys, "simulate", "bbbc021", "--out", "raw", "--set", "replicate=2", cwd=tmp_path
    )
    assert line.startswith(
        "simulate: no parameter 'replicate'; did you mean 'replicates'? There are "
        "compounds_per_class, "
    )
    line = error_line(capsys, "simulate", "bbbc021", "--out", "raw", "--classes", 2, cwd=tmp_path)
    assert line.startswith("simulate: no parameter 'classes'")
    for name in ("out", "seed", "competition"):
        assert f"--set {name}: is not a parameter" in error_line(
            capsys, "simulate", "idr0088_moa", "--out", "raw", "--set", f"{name}=1", cwd=tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_what_is_listed_can_be_given():
    """The names come from the simulators' own signatures."""
    from cellsignal.competitions.rxrx1.simulate import simulate_rxrx1

    assert {"classes", "controls", "train_experiments"} <= set(
        inspect.signature(simulate_rxrx1).parameters
    )
