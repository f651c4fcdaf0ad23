"""Parquet files with an image column and a label column, such as Hugging Face's datasets are kept in.

The image column holds the bytes of image files, or a struct with fields `bytes` and `path`. Files named
`train-*` are the training part, `val-*`, `validation-*` or `test-*` the validation part. Class names come
from a `classes.json` beside the files (a list, or a mapping of index to name), from the names Hugging Face
stores in the file, or are the label values themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pocketvit.core.errors import DamagedImageError, DataError
from pocketvit.core.files import read_json
from pocketvit.data.readers.folder import VAL_NAMES
from pocketvit.data.readers.listing import Listing
from pocketvit.data.splits import ImageSplit

__all__ = ["ParquetSplit", "parquet_files", "read_parquet"]

_IMAGE_NAMES = ("image", "img", "images", "jpg", "png")
_LABEL_NAMES = ("label", "labels", "class", "target", "category", "fine_label", "cls", "y")


def parquet_files(path: Path) -> list[Path]:
    """The parquet files that `path` is or holds, directly or in its folder `data/`; sorted, maybe none."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))


def read_parquet(source: Path, files: Sequence[Path]) -> Listing:
    """The images in `files`.

    Args:
        source: the file or folder that was asked for.

    Raises:
        DataError: no parquet file, no such columns, labels without a name, or more bytes than memory.
    """
    schema = _schema(files[0])
    image, label = _image_column(schema, files[0]), _label_column(schema, files[0])
    parts = _parts(files)
    values = {part: _labels(paths, label) for part, paths in parts.items()}
    every = [value for found in values.values() for value in found]
    names, position = _classes(source, schema, label, every)
    splits = {
        part: ParquetSplit(paths, image, [position[value] for value in values[part]])
        for part, paths in parts.items()
    }
    val = next((part for part in VAL_NAMES if part in splits), None)
    if "train" in splits and val is not None:
        return Listing(
            name=source.stem,
            classes=names,
            train=splits["train"],
            val=splits[val],
            rule=f"parquet files train* and {val}*",
        )
    if len(splits) > 1:
        raise DataError(
            f"{source} has parquet files of several parts ({', '.join(sorted(splits))}), not train and val.",
            fix="Name the files train-*.parquet and val-*.parquet (or validation-*, test-*).",
        )
    return Listing(name=source.stem, classes=names, train=next(iter(splits.values())), val=None)


class ParquetSplit(ImageSplit):
    """Images in the rows of parquet files; their bytes are held in memory once, as one Arrow column.

    Loader processes that are forked share them; others read the files again.
    """

    def __init__(self, paths: Sequence[Path], column: str, labels: Sequence[int]) -> None:
        super().__init__(labels)
        self._paths = list(paths)
        self._column = column
        self._rows: pa.ChunkedArray | None = None
        starts, self._first_row = 0, list[int]()
        for path in self._paths:
            self._first_row.append(starts)
            starts += pq.read_metadata(path).num_rows

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None}

    def key(self, i: int) -> str:
        """File name and row, such as `"train-00.parquet#12"`."""
        shard = max(s for s, first in enumerate(self._first_row) if first <= i)
        return f"{self._paths[shard].name}#{i - self._first_row[shard]}"

    def content(self, i: int) -> bytes:
        """The bytes in the row."""
        rows = self._rows = self._rows or _read_column(self._paths, self._column)
        value = rows[i].as_py()
        found = value["bytes"] if isinstance(value, dict) else value
        if found is None:
            raise DamagedImageError(f"{self.key(i)}: the row holds no image")
        return found


def _read_column(paths: Sequence[Path], column: str) -> pa.ChunkedArray:
    size = sum(_column_bytes(path, column) for path in paths)
    free = psutil.virtual_memory().available
    if size > free / 2:
        raise DataError(
            f"The images in {paths[0].parent} take {size / 2**30:.1f} GiB of memory, "
            f"of which {free / 2**30:.1f} GiB are free.",
            fix="Write them as image files into one folder per class, which are read one by one.",
        )
    try:
        tables = [pq.read_table(path, columns=[column], memory_map=True) for path in paths]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"The images in {paths[0].parent} cannot be read: {error}") from error
    return pa.concat_tables(tables).column(0)


def _column_bytes(path: Path, column: str) -> int:
    metadata = pq.read_metadata(path)
    groups = (metadata.row_group(g) for g in range(metadata.num_row_groups))
    columns = (group.column(c) for group in groups for c in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == column)


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole parquet file: {error}") from None


def _image_column(schema: pa.Schema, path: Path) -> str:
    found = [field.name for field in schema if _holds_images(field.type)]
    return _choose(found, _IMAGE_NAMES, "images (binary, or a struct with `bytes`)", schema, path)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_column(schema: pa.Schema, path: Path) -> str:
    found = [field.name for field in schema if _holds_labels(field.type)]
    return _choose(found, _LABEL_NAMES, "labels (whole numbers or text)", schema, path)


def _holds_labels(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_integer(plain) or pa.types.is_string(plain) or pa.types.is_large_string(plain)


def _choose(found: Sequence[str], usual: Sequence[str], what: str, schema: pa.Schema, path: Path) -> str:
    by_name = [name for wanted in usual for name in found if name.lower() == wanted]
    if by_name:
        return by_name[0]
    if len(found) == 1:
        return found[0]
    trouble = f"several columns could hold {what}: {', '.join(found)}" if found else f"no column holds {what}"
    raise DataError(
        f"{path}: {trouble}. Its columns: {', '.join(f'{field.name} ({field.type})' for field in schema)}.",
        fix=f"Name it '{usual[0]}'.",
    )


def _parts(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the part that the first word of their name tells; `""` when it tells none."""
    parts: dict[str, list[Path]] = {}
    for path in files:
        word = re.split(r"[-_.]", path.name.lower())[0]
        parts.setdefault(word if word in ("train", *VAL_NAMES) else "", []).append(path)
    return parts


def _labels(paths: Sequence[Path], column: str) -> list[int | str]:
    values: list[int | str] = []
    for path in paths:
        try:
            found = pq.read_table(path, columns=[column]).column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"The labels in {path} cannot be read: {error}") from None
        if None in found:
            raise DataError(f"{path}: row {found.index(None)} has no label.")
        values += found
    return values


def _classes(
    source: Path, schema: pa.Schema, column: str, values: Sequence[int | str]
) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """Class names, and the class index of each label value."""
    names = _names_beside(source) or _names_inside(schema, column)
    found = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if not names:
        return tuple(map(str, found)), {value: i for i, value in enumerate(found)}
    by_value: dict[int | str, int] = {name: i for i, name in enumerate(names.values())}
    by_value |= {index: i for i, index in enumerate(names)}
    unknown = [value for value in found if value not in by_value]
    if unknown:
        raise DataError(
            f"{source}: label {unknown[0]!r} has no class name; there are {len(names)} names.",
            fix="Add it to classes.json.",
        )
    return tuple(names.values()), by_value


def _names_beside(source: Path) -> dict[int, str]:
    folder = source if source.is_dir() else source.parent
    path = folder / "classes.json"
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        if isinstance(content, list):
            return {i: str(name) for i, name in enumerate(content)}
        if all(isinstance(value, int) for value in content.values()):  # name to index
            content = {index: name for name, index in content.items()}
        return {
            int(index): str(name) for index, name in sorted(content.items(), key=lambda item: int(item[0]))
        }
    except (ValueError, AttributeError, OSError) as error:
        raise DataError(
            f"{path} does not hold class names: {error}.",
            fix='Write a list such as ["cat", "dog"], or a mapping such as {"0": "cat", "1": "dog"}.',
        ) from None


def _names_inside(schema: pa.Schema, column: str) -> dict[int, str]:
    """The names of a Hugging Face `ClassLabel` feature."""
    stored = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(stored).get("info", {}).get("features", {}) if stored else {}
    return dict(enumerate(features.get(column, {}).get("names", [])))
