"""Tables of known relations: what is read, cleaned and refused."""

import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.profiles.relation_tables import read_genes, read_interactions, read_relations


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_pairs_are_counted_once_and_not_with_themselves(tmp_path):
    path = write(tmp_path / "KNOWN.txt", "entity1,entity2", "A,B", "B,A", " A ,C", "D,D", "A,B")
    (table,) = read_relations([str(path)])
    assert (table.name, table.rows) == ("KNOWN", 5)
    assert table.pairs == (("A", "B"), ("A", "C"))
    assert table.among(["C", "X", "A"]).tolist() == [[2, 0]]
    assert table.among(["X"]).shape == (0, 2)


def test_a_folder_gives_its_tables_of_pairs_alone(tmp_path):
    write(tmp_path / "one.txt", "entity1,entity2", "A,B")
    write(tmp_path / "two.tsv", "weight\tgene1\tgene2", ".5\tA\tB")
    write(tmp_path / "clusters.tsv", "cluster\tmembers", "1\tA B")
    write(tmp_path / "LICENSE", "text")
    assert [table.name for table in read_relations([str(tmp_path)])] == ["one", "two"]
    with pytest.raises(InputError, match="two tables are called 'one'"):
        read_relations([str(tmp_path), str(tmp_path / "one.txt")])


def test_efaars_tables_are_found_without_importing_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(InputError, match="pip install --no-deps efaar-benchmarking"):
            read_relations(["efaar"])
    folder = tmp_path / "efaar_benchmarking" / "benchmark_annotations"
    folder.mkdir(parents=True)
    write(tmp_path / "efaar_benchmarking" / "__init__.py", "raise RuntimeError")
    write(folder / "CORUM.txt", "entity1,entity2", "A,B")
    monkeypatch.syspath_prepend(tmp_path)
    assert [table.pairs for table in read_relations(["efaar"])] == [(("A", "B"),)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["x,y", "A,B"], "no two columns entity1, entity2"),
        (["entity1,entity2", "A,"], "row 2: entity2 is empty"),
        (["entity1,entity2"], "no rows"),
        (["entity1,entity2", "A,B,C"], "row 2"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_name(tmp_path, lines, message):
    path = write(tmp_path / "known.csv", *lines)
    with pytest.raises(InputError, match=message) as error:
        read_relations([str(path)])
    assert str(path) in str(error.value)


def test_no_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_relations([str(tmp_path / "absent.csv")])
    with pytest.raises(InputError, match=r"no \.txt or \.csv or \.tsv with"):
        read_relations([str(tmp_path)])


def test_interactions_are_read_as_published_and_checked(tmp_path):
    lines = ["gene_symbol,nM_value,measurement_type,treatment", 'BCL2,4.4,"ec50, ic50",ABT-199']
    table = read_interactions(write(tmp_path / "known.csv", *lines))
    expected = pd.DataFrame({"compound": ["ABT-199"], "gene": ["BCL2"], "nm": [4.4]})
    assert table[["compound", "gene", "nm"]].to_dict("list") == expected.to_dict("list")
    for cell in ("-1", "nan", "weak", "inf"):
        path = write(tmp_path / "bad.csv", lines[0], "A,1,,x", f"A,{cell},,x")
        with pytest.raises(InputError, match="row 3"):
            read_interactions(path)
    with pytest.raises(InputError, match="no column of the nm, one of nM_value"):
        read_interactions(write(tmp_path / "bad.csv", "treatment,gene", "a,b"))


def test_genes_come_from_words_and_files(tmp_path):
    path = write(tmp_path / "names.txt", "A", "", " B ", "not_measured")
    assert read_genes([str(path), "C"], "--x", {"A", "B", "C", "D"}) == {"A", "B", "C"}
    for word in ("nothing.txt", "genes/expressed", "GENE"):
        message = f"--x {word}: is neither a gene of the profiles nor a file of genes"
        with pytest.raises(InputError, match=message):
            read_genes(["A", word], "--x", {"A"})
    with pytest.raises(InputError, match="nor a file of genes; the nearest are PLK1"):
        read_genes(["PKL1"], "--x", {"PLK1", "ACTB"})
    with pytest.raises(InputError, match="--x: none of A, B, not_measured is a gene"):
        read_genes([str(path)], "--x", {"C"})
    with pytest.raises(InputError, match="holds no name"):
        read_genes([str(write(tmp_path / "empty.txt", ""))], "--x", {"A"})
