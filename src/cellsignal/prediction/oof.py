"""Score runs on their out-of-fold samples: each by itself, and all merged.

Two units: the target (what a submission names) and the well (its targets pooled). Wilson's interval
takes units as independent; the clustered one resamples whole fold groups (experiments, compounds)
and is the one to quote for new experiments or compounds.
"""

from cellsignal.competitions.task import Runs
from cellsignal.prediction.entry import Entry


def out_of_fold_text(entry: Entry) -> str:
    """Print the out-of-fold scores of an entry's runs and of all of them merged."""
    samples = entry.samples.drop_duplicates("target_id").set_index("target_id")
    fold_group = entry.members[0].about["fold_group"]
    task = entry.competition.task
    return task.out_of_fold_text(merge_runs(entry), samples, fold_group, entry.classes)


def merge_runs(entry: Entry) -> Runs:
    """Merge each run and, if there are several, all of them; by target and by well."""
    members = {run: entry.final(run) for run in entry.runs}
    if len(members) > 1:
        members[f"all {len(members)} merged"] = entry.final()
    return {
        run: {
            "target": entry.merge(final, "oof", pool="target"),
            "well": entry.merge(final, "oof", pool="well"),
        }
        for run, final in members.items()
    }
