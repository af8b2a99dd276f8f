import pytest

from companion.figures import tables


def test_a_table_is_shown_with_its_caption_its_label_and_numbers_that_stay_whole(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda made: shown.append(made.data))
    tables.table("tab-a", "A caption.", ["law", "cosine"], [["one", "0.9 ± 0.1"]])
    assert shown[0].splitlines() == [
        ":::{table} A caption.", ":name: tab-a", ":align: left", "",
        "| law | cosine |", "|:---|---:|", "| one | 0.9 ±\u00a00.1 |", ":::",
    ]  # fmt: skip


def test_every_column_has_a_name_and_every_row_as_many_cells():
    with pytest.raises(ValueError, match="name every one"):
        tables.table("tab-a", "A caption.", ["", "cosine"], [["one", "0.9"]])
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        tables.table("tab-a", "A caption.", ["law", "cosine"], [["one"]])
