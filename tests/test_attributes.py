"""Tables of labels as people make them: read right or refused in one line, and joined to images by path."""
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from litevae_diffae.attributes import AttributeTable, read_attributes
from litevae_diffae.folders import ImageFolder
from litevae_diffae.diffae.codes import Codes
from litevae_diffae.diffae.labels import read_labels


@pytest.fixture
def write(tmp_path):
    "Write a table of text or bytes into a folder of its own."
    def write(content, name="table.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path
    return write


def plain(join): return [row if row is None else row.tolist() for row in join.rows]


def one_line(error, path):
    "The message is one line, begins with the file and is not endless."
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 1000 + len(str(path))
    return text


# ---------------------------------------------------------------- reading

A_B = "file,A,B\nx.png,1,0\ny.png,0,1\n"
READABLE = {
    "comma": A_B,
    "semicolon": A_B.replace(",", ";"),
    "tab": A_B.replace(",", "\t"),
    "blank": A_B.replace(",", " "),
    "two blanks": A_B.replace(",", "  "),
    "blanks at the ends": A_B.replace("\n", " \n"),
    "blanks and a tab": "file  A B\nx.png\t1 0\ny.png 0\t1\n",
    "comma and blank": A_B.replace(",", ", "),
    "quoted": 'file,"A","B"\n"x.png","1","0"\n"y.png","0","1"\n',
    "utf-8 with mark": A_B.encode("utf-8-sig"),
    "utf-16": A_B.encode("utf-16"),
    "utf-16, big end first": b"\xfe\xff" + A_B.encode("utf-16-be"),
    "utf-32": A_B.encode("utf-32"),
    "windows line ends": A_B.replace("\n", "\r\n"),
    "old mac line ends": A_B.replace("\n", "\r"),
    "mixed line ends": "file,A,B\r\nx.png,1,0\ry.png,0,1\n",
    "no line end at the end": A_B.rstrip(),
    "blank lines": "\n\nfile,A,B\n\n  \nx.png,1,0\n\ny.png,0,1\n\n",
    "lines of separators": A_B + ",,\n,,\n",
    "separator at the line's end": A_B.replace("\n", ",\n"),
    "excel's first line": "sep=;\n" + A_B.replace(",", ";"),
    "excel's first line, tab": "sep=\t\n" + A_B.replace(",", "\t"),
    "true and false": "file,A,B\nx.png,True,FALSE\ny.png,no,Yes\n",
    "-1 and 1": "file,A,B\nx.png,1,-1\ny.png,-1,1\n",
    "floats": "file,A,B\nx.png,1.0,0.0\ny.png,0.0,1.0\n",
    "celeba": "2\nA B \nx.png  1 -1\ny.png -1  1\n",
    "celeba with a name for the files": "2\nimage_id A B\nx.png  1 -1\ny.png -1  1\n",
    "celeba, windows line ends": "2\r\nA B\r\nx.png 1 -1\r\ny.png -1 1\r\n",
    "kaggle's celeba": "image_id,A,B\nx.png,1,-1\ny.png,-1,1\n",
    "names without a header cell": A_B.replace("file", ""),
}


@pytest.mark.parametrize("content", READABLE.values(), ids=READABLE)
def test_reads(write, content):
    names, table = read_attributes(write(content))
    assert names == ("A", "B") and {k: v.tolist() for k, v in table.items()} == {"x.png": [1, 0], "y.png": [0, 1]}
    assert all(v.dtype == np.uint8 for v in table.values())


REFUSED = {
    "missing file": (None, "no such file"),
    "empty": ("", "is empty"),
    "blank": (" \n\n", "holds no table"),
    "count only": ("3\n", "holds no table"),
    "header only": ("file,A\n", "has a header and no rows"),
    "files only": ("file\nx.png\ny.png\n", "has no columns of attributes"),
    "binary": (bytes(range(256)) * 9, "save the table as UTF-8"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "save the table as UTF-8"),
    "a zip archive": (b"PK\x03\x04" + b"\0" * 99, "not a text of a known encoding"),
    "git-lfs": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    "latin-1": ("file,A\nb\xe9b\xe9.png,1\n".encode("latin-1"), "line 2 is not UTF-8 text; save the table as UTF-8"),
    "utf-16 without mark": (A_B.encode("utf-16-le"), "not a text of a known encoding"),
    "utf-16 cut in a letter": (A_B.encode("utf-16")[:-1], "is not UTF-16 text"),
    "huge line": ("file,A\nx" + "," * 2_000_000 + "\n", "line 2 has 2,000,0"),
    "huge cell": ('file,A\n"' + "\n".join("y" * 1000 for _ in range(200)) + '",1\n', "line 2 can't be parsed"),
    "quote that never ends": ('file,A\nx.png,1\n"y.png,0\nz.png,1\n', "line 3 can't be parsed (unexpected end of data)"),
    "no header": ("x.png,1,0\ny.png,0,1\n", "has no header, its first line is that of 'x.png'"),
    "no header, no extensions": ("x,1\ny,0\n", "has no header"),
    "identities": ("000001.jpg 2880\n000002.jpg 2937\n", "has no header"),
    "partition list": ("000001.jpg 0\n000002.jpg 2\n", "has no header"),
    "partition table": ("image_id,partition\nx.png,0\ny.png,2\n", "line 3: partition is '2', expected 0/1, -1/1 or true/false; choose"),
    "boxes": ("1\nimage_id x_1 y_1\nx.png 95 71\n", "line 3: x_1 is '95'"),
    "ages": ("file,A,age\nx.png,1,31\n", "line 2: age is '31'"),
    "empty cell": ("file,A,B\nx.png,1,\n", "line 2: B is empty"),
    "not a number": ("file,A\nx.png,nan\n", "line 2: A is 'nan'"),
    "three values": ("file,A\nx.png,1\ny.png,0\nz.png,-1\n", "A is 0 in line 3 and -1 in line 4"),
    "too few values": ("file,A,B\nx.png,1\n", "line 2 has 1 values for 2 names"),
    "too many values": ("file,A\nx.png,1,0\n", "line 2 has 2 values for 1 names"),
    "blanks in a name": ("file A\nmy cat.png 1\n", "line 2 has 2 values for 1 names"),
    "celeba without its count": ("A B\nx.png 1 -1\n", "line 2 has 2 values for 1 names"),
    "celeba's row too short": ("2\nA B\nx.png 1\ny.png 1 1\n", "line 3 has 1 values for 2 names"),
    "celeba cut short": ("3\nA\nx.png 1\ny.png -1\n", "announces 3 rows and has 2"),
    "a quote as separator": ('sep="\n' + A_B, "has no columns of attributes"),
    "no file name": ("file,A\n,1\n", "line 2 names no file"),
    "doubled column": ("file,A,B,A\nx.png,1,0,0\n", "has the column 'A' 2 times; choose"),
    "column without name": ("file,,A\nx.png,1,0\n", "has no name for column 2"),
    "row numbers of pandas": (",file,A\n0,x.png,1\n1,y.png,0\n", "file is 'x.png'"),
    "contradiction": ("file,A,B\nx.png,0,1\ny.png,0,1\nx.png,0,0\n", "line 2 ('x.png': B 1) and line 4 ('x.png': B 0) contradict each other"),
    "contradiction, dot": ("file,A\nx.png,1\n./x.png,0\n", "line 2 ('x.png': A 1) and line 3 ('./x.png': A 0)"),
}


@pytest.mark.parametrize("content, message", REFUSED.values(), ids=REFUSED)
def test_refuses(write, tmp_path, content, message):
    path = write(content) if content is not None else tmp_path / "table.csv"
    with pytest.raises(ValueError) as error: read_attributes(path)
    assert message in one_line(error, path)


def test_refuses_a_folder(tmp_path):
    with pytest.raises(ValueError) as error: read_attributes(tmp_path)
    assert "is a folder" in one_line(error, tmp_path)


def test_refuses_row_numbers_even_if_only_labels_are_chosen(write):
    path = write(",file,A\n0,x.png,1\n1,y.png,0\n")
    with pytest.raises(ValueError, match="row numbers in its first column"): read_attributes(path, ["A"])


NAMES = {
    "comma in quotes": ('file,A\n"a, b.png",1\n', "a, b.png"),
    "line break in quotes": ('file,A\r\n"a\r\nb.png",1\r\n', "a\r\nb.png"),
    "quote in quotes": ('file,A\n"a ""b"".png",1\n', 'a "b".png'),
    "quotes inside": ('file,A\na "b".png,1\n', 'a "b".png'),
    "line separator": ("file,A\na\u2028b.png,1\n", "a\u2028b.png"),
    "paragraph separator": ("file,A\na\u2029b.png,1\n", "a\u2029b.png"),
    "next line": ("file,A\na\x85b.png,1\n", "a\x85b.png"),
    "form feed": ("file,A\na\x0cb.png,1\n", "a\x0cb.png"),
    "blanks around": ("file,A\n a.png ,1\n", "a.png"),
    "semicolon in quotes": ('"file; with dot",A\na;b.png,1\n', "a;b.png"),
}


@pytest.mark.parametrize("text, name", NAMES.values(), ids=NAMES)
def test_names_as_written(write, text, name):
    assert {k: v.tolist() for k, v in read_attributes(write(text))[1].items()} == {name: [1]}


def test_columns(write):
    path = write("file,A,age,B,A\u0308,age\nx.png,1,31,0,1,7\ny.png,0,,1,1,8\n")
    names, table = read_attributes(path, ["B", "A", "\xc4"])             # any order, one spelling for Unicode's two
    assert names == ("B", "A", "\xc4") and [v.tolist() for v in table.values()] == [[0, 1, 1], [1, 0, 1]]
    for columns, message in ((["C"], "has no column C; it has A, age, B, \xc4, age"), (["age"], "has the column 'age' 2 times"),
                             ([], "columns: must be at least one name"), ("A", "columns: must be a list of names, got 'A'"), (5, "columns: must be a list of names, got 5"),
                             (["A", "A"], "columns: must be different names")):
        with pytest.raises(ValueError, match=message): read_attributes(path, columns)


def test_lines_are_the_editors(write):
    "Numbers count blank lines and those inside quotes."
    path = write('\n\nsep=,\nfile,A\n\n"a\nb",1\n\nx,5\n')
    with pytest.raises(ValueError, match="line 9: A is '5'"): read_attributes(path)


# ---------------------------------------------------------------- joining

E_NFC, E_NFD = unicodedata.normalize("NFC", "caf\xe9.png"), unicodedata.normalize("NFD", "caf\xe9.png")
NONE = "no row in the attribute file"
JOINS = { # rows, paths, values
    "folder's own name": ("cats/001.jpg,1 cats/002.jpg,1 dogs/001.jpg,0 dogs/002.jpg,0", "001.jpg 002.jpg", [0, 0]),
    "other folder only": ("cats/001.jpg,1 cats/002.jpg,1", "001.jpg 002.jpg", [None, None]),
    "below the folder": ("a/1.jpg,1 b/1.jpg,0", "a/1.jpg b/1.jpg", [1, 0]),
    "whole parts only": ("ogs/1.jpg,1 b/1.jpg,0", "1.jpg cb/1.jpg", [None, None]),
    "bare name, unique": ("1.jpg,1 2.jpg,0", "a/1.jpg b/2.jpg", [1, 0]),
    "bare name of two images": ("1.jpg,1 2.jpg,0", "a/1.jpg b/1.jpg 2.jpg", [None, None, 0]),
    "bare name of two, one with a row": ("a/1.jpg,0 1.jpg,1", "a/1.jpg b/1.jpg", [0, None]),
    "bare name is the path": ("1.jpg,1", "1.jpg thumbs/1.jpg", [1, None]),
    "both have their rows": ("1.jpg,1 thumbs/1.jpg,0", "1.jpg thumbs/1.jpg", [1, 0]),
    "longer name wins": ("1.jpg,1 a/1.jpg,0", "a/1.jpg", [0]),
    "other extension": ("x.jpg,1", "x.png", [None]),
    "each its extension": ("x.jpg,1 x.png,0", "x.jpg x.png x.webp", [1, 0, None]),
    "extension missing in the table": ("x,1 a/y,0", "x.jpg a/y.png", [1, 0]),
    "extension missing, two images": ("x,1", "x.jpg x.png", [None, None]),
    "extension missing, one has a row": ("x,1 x.jpg,1", "x.jpg x.png", [1, None]),
    "extension missing on the image": ("x.jpg,1", "x", [1]),
    "no extension at all": ("x,1 y,0", "x y", [1, 0]),
    "with and without": ("x,1 x.jpg,0", "x x.jpg", [1, 0]),
    "not an extension": ("frame,1 shot.v1,0", "frame.0001 shot.v1.png", [None, 0]),
    "upper case": ("X.jpg,1 y.JPG,0", "x.jpg y.jpg", [None, None]),
    "upper case apart": ("X.jpg,1 x.jpg,0", "X.jpg x.jpg", [1, 0]),
    "dot": ("./x.jpg,1 ./a//y.jpg,0", "x.jpg ./a/y.jpg", [1, 0]),
    "backslash": ("a\\x.jpg,1 .\\b\\x.jpg,0", "a/x.jpg b/x.jpg", [1, 0]),
    "up": ("../dogs/x.jpg,1", "x.jpg", [1]),                                # from the table's folder, which is beside dogs
    "up elsewhere": ("../cats/x.jpg,1", "x.jpg", [None]),
    "nfd rows": (f"{E_NFD},1", E_NFC, [1]),
    "nfc rows": (f"{E_NFC},1", E_NFD, [1]),
    "both spellings": (f"{E_NFC},1 {E_NFD},0", f"{E_NFC} {E_NFD}", [1, 0]),
    "one spelling, two files": (f"{E_NFC},1", f"{E_NFC} {E_NFD}", [1, None]),
    "repeated": ("x.jpg,1 ./x.jpg,1 x,1", "x.jpg", [1]),
    "absolute": ("ROOT/x.jpg,1 ROOT/a/y.jpg,0", "x.jpg a/y.jpg", [1, 0]),
    "absolute elsewhere": ("/elsewhere/dogs/x.jpg,1", "x.jpg", [None]),
    "absolute and bare": ("ROOT/x.jpg,1 x.jpg,1", "x.jpg", [1]),
    "same path twice": ("x.jpg,1", "x.jpg x.jpg", [1, 1]),
}


@pytest.mark.parametrize("rows, paths, values", JOINS.values(), ids=JOINS)
def test_joins(write, tmp_path, rows, paths, values):
    root = tmp_path / "dogs"
    text = "file,A\n" + rows.replace(" ", "\n").replace("ROOT", root.as_posix()) + "\n"
    join = AttributeTable.read(write(text, "tables/t.csv")).join(paths.split(" "), root)
    assert plain(join) == [v if v is None else [v] for v in values]
    assert sorted(join.reasons) == [i for i, v in enumerate(values) if v is None]
    assert all(reason.startswith(NONE) for reason in join.reasons.values())


CLASHES = {
    "with and without extension": ("x,1 x.jpg,0", "x.jpg"),
    "two spellings of one file": (f"{E_NFC},1 {E_NFD},0", E_NFC),
    "backslash and slash": ("a\\x.jpg,1 a/x.jpg,0", "a/x.jpg"),
    "the folder's name and none": ("x.jpg,1 dogs/x.jpg,0", "x.jpg"),
    "two extensions, none on the image": ("x.jpg,1 x.png,0", "x"),
    "longer, but less exact": ("x.jpg,1 dogs/x,0", "x.jpg"),
}


@pytest.mark.parametrize("rows, path", CLASHES.values(), ids=CLASHES)
def test_contradicting_rows(write, tmp_path, rows, path):
    table = AttributeTable.read(write("file,A\n" + rows.replace(" ", "\n"), "tables/t.csv"))
    with pytest.raises(ValueError) as error: table.join([path], tmp_path / "dogs")
    a, b = (row.split(",")[0] for row in rows.split(" "))
    assert f"line 2 ({a!r}: A 1) and line 3 ({b!r}: A 0) contradict each other" in one_line(error, table.path)


REASONS = {
    "nothing near": ("y.jpg,1", ["x.jpg"], NONE),
    "case": ("X.JPG,1", ["x.jpg"], f"{NONE}: 'X.JPG' differs in upper and lower case"),
    "extension": ("x.jpg,1", ["x.png"], f"{NONE}: 'x.jpg' has another extension"),
    "folder": ("cats/x.jpg,1", ["x.jpg"], f"{NONE}: 'cats/x.jpg' is in another folder"),
    "two images": ("x.jpg,1", ["a/x.jpg", "b/x.jpg"], f"{NONE} that is certain: 'x.jpg' could be a/x.jpg or b/x.jpg"),
    "belongs to another": ("x,1", ["x.jpg", "x"], f"{NONE}: 'x' is that of x"),
}


@pytest.mark.parametrize("row, paths, reason", REASONS.values(), ids=REASONS)
def test_reasons(write, row, paths, reason):
    assert AttributeTable.read(write(f"file,A\n{row}\n")).join(paths).reasons[0] == reason


def test_report(write, tmp_path):
    rows = "".join(f"{i:06d}.jpg,{i % 2}\n" for i in range(1, 1201))
    join = AttributeTable.read(write("file,A\n" + rows + "./000001.jpg,1\n")).join(["000001.jpg", "000002.jpg", "cover.jpg"], tmp_path)
    assert join.report() == "2 rows used, 1,198 rows without image, 1 images without row, 1 rows repeat others"
    assert (join.without_row, len(join.without_image), join.without_image[0]) == (["cover.jpg"], 1198, "000003.jpg")
    some = join.among([1, 2])                                                 # 000001.jpg turned out to be no image
    assert some.report() == "1 rows used, 1,199 rows without image, 1 images without row, 1 rows repeat others"
    assert plain(some) == [[0], None] and some.files == ["000002.jpg", None]


def test_links(write, tmp_path):
    "A folder by its link's name and by its own; a table that resolved links, and one that did not."
    store = tmp_path / "store" / "dogs"
    store.mkdir(parents=True)
    (store / "x.jpg").touch()
    link = tmp_path / "current"
    link.symlink_to(store, target_is_directory=True)
    for row in ("current/x.jpg", "dogs/x.jpg", "store/dogs/x.jpg", store / "x.jpg", link / "x.jpg", "x.jpg"):
        table = AttributeTable.read(write(f"file,A\n{row},1\n"))
        assert plain(table.join(["x.jpg"], link)) == [[1]], row
    table = AttributeTable.read(write("file,A\ncurrent/x.jpg,1\ndogs/x.jpg,0\n"))
    with pytest.raises(ValueError, match="contradict"): table.join(["x.jpg"], link)


def test_relative_root(write, tmp_path, monkeypatch):
    (tmp_path / "dogs").mkdir()
    table = AttributeTable.read(write("file,A\ncats/1.jpg,1\ndogs/1.jpg,0\n"))
    monkeypatch.chdir(tmp_path)
    assert plain(table.join(["1.jpg"], "dogs")) == plain(table.join([tmp_path / "dogs" / "1.jpg"], "dogs")) == [[0]]
    monkeypatch.chdir(tmp_path / "dogs")
    assert plain(table.join(["1.jpg"], ".")) == [[0]]


def test_time_grows_with_the_number_of_names(write, tmp_path):
    "One name in many folders, in the table and on disk: neither is compared with all others."
    n = 4_000
    table = AttributeTable.read(write("file,A\n" + "".join(f"{i}/image.png,{i % 2}\n" for i in range(n)) + "image.png,0\n"))
    join = table.join([f"{i}/image.png" for i in range(n)] + [f"other/{i}/image.png" for i in range(n)], tmp_path)
    assert plain(join)[:4] == [[0], [1], [0], [1]] and len(join.without_row) == n


def test_in_order(write):
    table = AttributeTable.read(write("2\nA B\nb.png 1 -1\na.png -1 1\n"))
    assert table.in_order(2).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="has 2 rows for 3 images"): table.in_order(3)
    same = AttributeTable.read(write("file,A\nx,1\nx,1\n"))
    assert same.in_order(2).tolist() == [[1], [1]]


# ---------------------------------------------------------------- codes

def codes(*files): return Codes.of(torch.randn(len(files), 4), files=list(files))


def test_labels_of_a_list_larger_than_the_set(write):
    path = write("5\nSmiling Male\n" + "".join(f"{i:06d}.jpg {1 if i % 2 else -1}  1\n" for i in range(5)), "list_attr_celeba.txt")
    found = read_labels(codes("000001.jpg", "000004.jpg"), path, ["Smiling"], partial=True)
    assert (found.files, found.names, found.attributes.tolist()) == (["000001.jpg", "000004.jpg"], ("Smiling",), [[1], [0]])
    assert found.attributes.dtype == torch.uint8
    with pytest.raises(ValueError, match="not among the codes: 3: 000000.jpg, 000002.jpg, 000003.jpg"): read_labels(codes("000001.jpg", "000004.jpg"), path)


def test_labels_of_some_codes(write, capsys):
    path = write("file,A\na/1.png,1\nb/1.png,0\nc/1.png,1\n")
    some = codes("b/1.png", "d/1.png", "a/1.png")
    found = read_labels(some, path, partial=True)
    assert found.files == ["b/1.png", "a/1.png"] and found.attributes.tolist() == [[0], [1]] and torch.equal(found.z_sem, some.z_sem[[0, 2]])
    assert capsys.readouterr().out == "table.csv: 2 rows used, 1 rows without image, 1 images without row\n"
    with pytest.raises(ValueError, match="has no row for 1: d/1.png"): read_labels(some, path)


def test_labels_never_by_guess(write, tmp_path):
    path = write("file,A\ncats/1.jpg,1\ndogs/1.jpg,0\n")
    with pytest.raises(ValueError, match=r"has rows for none of the 1 codes \(1.jpg: no row in the attribute file: .* is in another folder\)"):
        read_labels(codes("1.jpg"), path, partial=True)
    assert read_labels(codes("1.jpg"), path, partial=True, root=tmp_path / "dogs").attributes.tolist() == [[0]]
    with pytest.raises(ValueError, match="has another extension"): read_labels(codes("x.png"), write("file,A\nx.jpg,1\n"), partial=True)
    with pytest.raises(ValueError, match="codes: have no file names"): read_labels(Codes.of(torch.randn(2, 4)), path)


# ---------------------------------------------------------------- folders of images

@pytest.fixture
def pets(write, tmp_path, monkeypatch):
    "cats and dogs with the same two names, and the working folder above them."
    for folder in ("cats", "dogs"):
        for name in ("001.jpg", "002.jpg"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (16, 16), "red").save(tmp_path / folder / name)
    monkeypatch.chdir(tmp_path)
    return write("file,Cat\ncats/001.jpg,1\ncats/002.jpg,1\ndogs/001.jpg,0\ndogs/002.jpg,0\n", "pets.csv")


def labels(source): return [values["Cat"] for _, values in source]


def test_folder_gets_its_own_labels(pets, tmp_path, monkeypatch):
    for root in ("dogs", "./dogs", "dogs/", tmp_path / "dogs"): assert labels(ImageFolder(root, pets)) == [0, 0], root
    assert labels(ImageFolder("cats", pets)) == [1, 1] and labels(ImageFolder(".", pets)) == [1, 1, 0, 0]
    assert ImageFolder("dogs", pets).report() == "2 images; 2 rows used, 2 rows without image, 0 images without row"
    monkeypatch.chdir("dogs")
    assert labels(ImageFolder(".", pets)) == [0, 0]


def test_folder_named_relatively_and_rows_absolutely(pets, write, tmp_path):
    path = write(f"file,Cat\n{tmp_path}/dogs/001.jpg,1\n{tmp_path}/dogs/002.jpg,0\n")
    assert labels(ImageFolder("dogs", path)) == [1, 0]


def test_folder_does_not_give_a_row_of_two_images(pets, write):
    path = write("file,Cat\n001.jpg,1\n002.jpg,0\ncats/003.jpg,1\n")
    with pytest.raises(ValueError, match="that is certain: '001.jpg' could be"): ImageFolder(".", path)
    assert labels(ImageFolder("cats", path)) == [1, 0]


def test_folder_counts_rows_of_damaged_images(pets, tmp_path):
    (tmp_path / "dogs" / "002.jpg").write_bytes(b"\xff\xd8cut")
    source = ImageFolder("dogs", pets)
    assert source.joined == "1 rows used, 3 rows without image, 0 images without row" and len(source) == 1
    Image.new("RGB", (16, 16)).save(tmp_path / "dogs" / "more.png")
    assert ImageFolder("dogs", pets).joined == "1 rows used, 3 rows without image, 1 images without row"


def test_folder_with_other_extension(pets, write):
    with pytest.raises(ValueError, match="has another extension"): ImageFolder("dogs", write("file,Cat\n001.png,1\n"))


def test_folder_and_chosen_columns(pets, write):
    path = write("file,Cat,age\ndogs/001.jpg,0,3\ndogs/002.jpg,0,\n")
    assert labels(ImageFolder("dogs", path, columns=["Cat"])) == [0, 0]
    with pytest.raises(ValueError, match="line 2: age is '3'"): ImageFolder("dogs", path)
