"""Titles of pictures, and everything that can be wrong with them."""

import pytest
from PIL import Image

from fewshot.errors.inputs import InputError
from fewshot.tasks.pictures import image_folder, images
from fewshot.tasks.two_modalities.titles import titles_of
from tests.fewshot import pictures


@pytest.fixture
def folder(tmp_path):
    return pictures.save(tmp_path / "pictures", ("a", "b"), n=2)


def read(folder, text="titles.csv"):
    files = image_folder.images_in(folder)
    return titles_of(text, folder, files, "images.text")


def refused(folder, text="titles.csv"):
    with pytest.raises(InputError) as caught:
        read(folder, text)
    return caught.value.details


def table(folder, content):
    (folder / "titles.csv").write_text(content, encoding="utf-8")
    return folder


def test_titles_are_in_the_order_of_the_files(folder):
    table(folder, "file,text\nb/1.png,four\nb/0.png,three\na/1.png,\na/0.png,one\n")
    assert read(folder) == ["one", "", "three", "four"]


@pytest.mark.parametrize("column", ["title", "name of the picture"])
def test_the_only_other_column_holds_the_titles(folder, column):
    rows = "".join(f"./{d}/{i}.png, {d} \n" for d in "ab" for i in (0, 1))
    assert read(table(folder, f"\ufefffile,{column}\n{rows}")) == ["a", "a", "b", "b"]


def test_titles_that_look_like_missing_values_are_texts(folder):
    rows = "".join(f"{d}/{i}.png,null\n" for d in "ab" for i in (0, 1))
    assert read(table(folder, f"file,text\n{rows}")) == ["null"] * 4


def test_a_table_elsewhere_is_named_by_its_path(folder, tmp_path):
    pictures.titles(folder, path=tmp_path / "other.csv")
    assert read(folder, str(tmp_path / "other.csv")) == ["a", "a", "b", "b"]


def test_all_errors_between_files_and_titles_are_told_at_once(folder):
    table(folder, "file,text\na/0.png,one\na/0.png,two\n1.png,x\ngone/7.png,y\n")
    unknown, missing, twice = refused(folder)
    assert unknown.found == "2: 1.png, gone/7.png"
    assert missing.found == "3: a/1.png, b/0.png, b/1.png"
    assert "leave `text` empty" in missing.remedy
    assert twice.found == "a/0.png (2 rows)" or twice.found == "1: a/0.png (2 rows)"


def test_a_path_without_its_folder_is_recognised(folder):
    (folder / "a" / "only.png").write_bytes((folder / "a" / "0.png").read_bytes())
    pictures.titles(folder)
    content = (folder / "titles.csv").read_text().replace("a/only.png", "only.png")
    (unknown, missing) = refused(table(folder, content))
    assert "Did you mean a/only.png?" in unknown.remedy
    assert missing.found == "1: a/only.png"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "must not be empty."),
        ("file,text\n", "must have at least one row."),
        ("name,text\na/0.png,x\n", "must have the columns `file` and `text`."),
        ("file,text,text\na/0.png,x,y\n", "two columns with the same name"),
        ("file\na/0.png\n", "must have the columns `file` and `text`."),
        ("file,title,note\na/0.png,x,y\n", "if it has more than two columns."),
        ("file,text\na/0.png,x,y,z\n", "must have 2 cells in each row"),
    ],
)
def test_a_table_that_is_none_is_refused(folder, content, rule):
    assert any(rule in detail.rule for detail in refused(table(folder, content)))


def test_a_title_with_a_comma_is_quoted(folder):
    rows = "".join(f'{d}/{i}.png,"{d}, {i}"\n' for d in "ab" for i in (0, 1))
    assert read(table(folder, f"file,text\n{rows}")) == ["a, 0", "a, 1", "b, 0", "b, 1"]


def test_a_table_in_another_encoding_is_refused(folder):
    (folder / "titles.csv").write_bytes("file,text\na/0.png,Größe\n".encode("latin-1"))
    (detail,) = refused(folder)
    assert "can't be read" in detail.rule


def test_a_table_without_any_text_is_refused(folder):
    pictures.titles(folder, without=("a", "b"))
    (detail,) = refused(folder)
    assert "must have a text in some row" in detail.rule


@pytest.mark.parametrize("text", ["titles.csv", "no/such.csv", "", 3, "a"])
def test_a_table_that_is_not_there_is_refused(folder, text):
    (detail,) = refused(folder, text)
    assert detail.path == "images.text"


def test_errors_of_the_folder_and_of_the_titles_are_told_together(folder, tmp_path):
    Image.new("L", (8, 8)).save(folder / "loose.png")
    table(folder, "file,text\na/0.png,one\n")
    with pytest.raises(InputError) as caught:
        images.load(path=str(folder), cache=tmp_path, size=8, text="titles.csv")
    rules = [detail.rule for detail in caught.value.details]
    assert any("class/*.png" in rule for rule in rules)
    assert any("a row for each image file" in rule for rule in rules)


def test_an_archive_has_no_files_with_titles(tmp_path):
    import numpy as np

    np.savez(tmp_path / "x.npz", images=np.zeros((2, 8, 8), np.uint8), label=np.arange(2))
    with pytest.raises(InputError, match="needs a folder of images"):
        images.load(path=str(tmp_path / "x.npz"), cache=tmp_path, size=8, text="titles.csv")
