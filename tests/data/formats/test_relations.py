import pytest

from mner.data.formats.relations import read_relations
from mner.errors import DataFormatError, DataNotFoundError


@pytest.mark.parametrize(
    "text",
    [
        "7.jpg\t0.25\n8\t1\n\n9\t0\r\n",
        '{"image_id": "7.jpg", "relation": 0.25}\n{"image_id": "8", "relation": 1}\n{"image_id": "9", "relation": 0}\n',
        "7\t0.25\n7.png\t0.25\n8\t1e0\n9\t0\n",  # twice the same is no contradiction
    ],
)
def test_both_forms(tmp_path, text):
    path = tmp_path / "relations"
    path.write_text(text, encoding="utf-8")
    assert read_relations(path) == {"7": 0.25, "8": 1.0, "9": 0.0}


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("7\t1\n8\t1.5\n", 2, "the value 1.5 of image '8'"),
        ("7\t-0.1\n", 1, "the value -0.1 of image '7'"),
        ("7\tnan\n", 1, "the value nan"),
        ("7\tyes\n", 1, "the value 'yes' of image '7'"),
        ("7 1\n", 1, "'7 1'"),
        ("\t1\n", 1, "image id, tab, value"),
        ("7\t1\n8\t0\n7.jpg\t0\n", 3, "the values 1 and 0 of image '7.jpg'"),
        ('{"image_id": "7"}\n', 1, "null as 'relation'"),
        ('{"image_id": "7", "relation": "1"}\n', 1, "a string as 'relation'"),
        ('{"image_id": "7", "relation": true}\n', 1, "true as 'relation'"),
        ('{"id": "7", "relation": 1}\n', 1, "no 'image_id'"),
        ('{"image_id": "7", "relation": 1}\n8\t1\n', 2, "8"),
        ("", 1, "an empty file"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, line, found):
    path = tmp_path / "relations.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataFormatError) as caught:
        read_relations(path)
    assert f"relations.tsv:{line}" in str(caught.value)
    assert found in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataNotFoundError, match="No file"):
        read_relations(tmp_path / "none.tsv")
