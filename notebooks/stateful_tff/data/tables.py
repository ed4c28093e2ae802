"""Ratings from any table of users, items and ratings: a file or a DataFrame, ids of any kind.

Knows nothing of MovieLens, downloads, splits, models and TFF.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from ..checks import shown, text
from ..progress import progress
from .archives import as_path, sentences
from .ratings import DataError, Ratings, checked_scale, sorted_table

# The first bytes of a compressed file, and what pandas calls the way it is compressed.
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip"}
_NEEDED = ("user", "item", "rating")
_CHUNK = 2_000_000  # lines that are read at a time
_SEPARATORS = ("::", "\t", ",", ";", "|")  # the first of those that a line has most of
_ENCODINGS = {b"\xff\xfe\0\0": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_table(
    source: pd.DataFrame | str | os.PathLike,
    user: str | int,
    item: str | int,
    rating: str | int,
    time: str | int | None = None,
    *,
    title: str | int | None = None,
    name: str = "table",
    scale: tuple[float, float] | None = None,
) -> Ratings:
    """Reads ratings from any table, whose columns you name.

    Ids may be of any one kind, such as numbers or texts. Those of a file are numbers where all
    of them are written as whole numbers are, else texts: "007" and "7" are two users.

    Args:
        source: a DataFrame, or a file: CSV, TSV or another separated by one of tab, comma,
            semicolon, bar and two colons, compressed or not, in UTF-8, or in UTF-16 or UTF-32
            with a byte order mark; or Parquet.
        user: the column of user ids.
        item: the column of item ids.
        rating: the column of ratings, which are finite numbers.
        time: the column of times: whole numbers, of which only the order counts, or dates and
            times, kept as seconds since 1970, or as microseconds where seconds would not do.
            Without it all times are 0, and no split by time can be made.
        title: the column of the items' titles; the ids serve as titles when left out.
        name: what to call the ratings.
        scale: the lowest and the highest rating that can be given; see `Ratings`.

    A file without a header has its columns named by their positions, from 0.

    Returns:
        The ratings; `user_ids` and `items["movie_id"]` hold the ids of the table.

    Raises:
        DataError: naming the file or column that is missing, the row that is wrong, or the
            package that is needed.
    """
    columns = dict(user=user, item=item, rating=rating, time=time, title=title)
    columns = {key: c for key, c in columns.items() if c is not None or key in _NEEDED}
    for key, column in columns.items():
        if not isinstance(column, str | int | tuple):
            raise DataError(
                f"A {type(column).__name__} names no column for {key}; give its name, or its "
                "position in a file without a header."
            )
    if isinstance(source, pd.DataFrame):
        where, table = "the table", source
    else:
        where, table = str(source), _read_file(as_path(source), columns)
    for key, column in columns.items():
        _refuse_missing(where, {key: column}, table.columns)
        if not isinstance(table[column], pd.Series):
            raise DataError(f"{where} has the column {column!r} twice; rename one.")
    if not len(table):
        raise DataError(f"{where} holds no ratings; name another one.")
    users, user_ids = _indexed(table[user], f"{where}, column {user!r}")
    items, item_ids = _indexed(table[item], f"{where}, column {item!r}")
    stars = _numbers(table[rating], f"{where}, column {rating!r}")
    times = np.zeros(len(table), np.int64)
    if time is not None:
        times = _times(table[time], f"{where}, column {time!r}")
    _refuse_pairs(users, items, user_ids, item_ids, where)
    titles = pd.Series(item_ids).astype(str)
    if title is not None:
        first = np.full(len(item_ids), -1)
        first[items[::-1]] = np.arange(len(table))[::-1]
        titles = table[title].iloc[first].astype(str).reset_index(drop=True)
    movies = pd.DataFrame({"movie_id": item_ids, "title": titles, "genres": ""})
    if scale is not None:
        scale = low, high = checked_scale("scale", scale)
        if not low <= stars.min() <= stars.max() <= high:
            raise DataError(
                f"{where} has ratings from {stars.min():g} to {stars.max():g}, off the scale from "
                f"{low:g} to {high:g}; give their own scale."
            )
    rows = sorted_table(users, items, stars, times)
    return Ratings(text("name", name), rows, user_ids, movies, scale=scale)


def _refuse_missing(where: str, columns: dict, known) -> None:
    """Refuses columns that are not there, and says which ones are."""
    for key, column in columns.items():
        if column not in known:
            there = ", ".join(map(str, known[:20]))
            raise DataError(f"{where} has no column {shown(column)} for {key}; it has {there}.")


def _read_file(path: Path, columns: dict) -> pd.DataFrame:
    """Reads the named columns of a file, and ids as they are written."""
    with sentences(path), open(path, "rb") as file:
        start = file.read(8)
    try:
        if start.startswith(b"PAR1"):
            return pd.read_parquet(path, columns=[str(c) for c in columns.values()])
        return _read_text(path, start, columns)
    except ImportError as error:
        raise DataError(f"{path} is a Parquet file; install pyarrow to read it.") from error
    except DataError:
        raise
    except Exception as error:  # each library that reads files raises kinds of its own
        words = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a table ({words.rstrip('.')}).") from error


def _read_text(path: Path, start: bytes, columns: dict) -> pd.DataFrame:
    """Reads a text file; its separator is the one that its first line has most of."""
    packed = next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)
    encoding = next((kind for mark, kind in _ENCODINGS.items() if start.startswith(mark)), None)
    options = dict(compression=packed, encoding=encoding or "utf-8-sig")
    with pd.io.common.get_handle(path, "r", **options) as file:
        line = file.handle.readline()
    if not line.strip():
        raise DataError(f"{path} is empty; name another one.")
    separator = max(_SEPARATORS, key=line.count)
    options |= dict(na_filter=True, engine="python" if len(separator) > 1 else "c")
    header = None if all(isinstance(c, int) for c in columns.values()) else 0
    named = list(pd.read_csv(path, sep=separator, header=header, nrows=0 if header == 0 else 1,
                             **options).columns)  # fmt: skip
    _refuse_missing(str(path), columns, named)
    ids = {columns[key]: {} for key in ("user", "item") if columns[key] in named}
    chunks = pd.read_csv(
        path,
        sep=separator,
        header=header,
        usecols=[c for c in named if c in columns.values()],
        dtype={column: "category" for column in ids},
        na_values={column: [""] for column in ids},  # and nothing else: a user may be called NA
        keep_default_na=False,
        chunksize=_CHUNK,
        **options | (dict(low_memory=False) if options["engine"] == "c" else {}),
    )
    parts = []
    for part in progress(chunks, f"Reading {path.name}", delay=2):
        for column, numbers in ids.items():
            texts, codes = part[column].cat.categories, part[column].cat.codes.to_numpy()
            place = [numbers.setdefault(text, len(numbers)) for text in texts]
            part[column] = np.array([*place, -1], np.int32)[codes]  # -1 where there is no id
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    for column, numbers in ids.items():
        table[column] = pd.Categorical.from_codes(table[column], list(numbers))
    return table


def _indexed(column: pd.Series, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns contiguous ids and the original ones, which are sorted."""
    if column.isna().any():
        raise DataError(f"{where}: row {column.isna().to_numpy().argmax()} has no id; add one.")
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, ids = column.cat.codes.to_numpy(), column.cat.categories.to_numpy()
        used, codes = np.unique(codes, return_inverse=True) if len(ids) > codes.max() + 1 else (
            None, codes)  # fmt: skip
        ids = ids if used is None else ids[used]
        if ids.dtype == object and all(_is_plain(i) for i in ids):
            ids = ids.astype(np.int64)
        ids, place = _sorted(ids, where)
        return place[codes], ids
    values = column.infer_objects().to_numpy()
    if np.issubdtype(values.dtype, np.floating):
        if not np.array_equal(values, np.round(values)) or np.abs(values).max() > 2**53:
            raise DataError(f"{where} holds numbers with a fraction; ids are whole or texts.")
        values = values.astype(np.int64)
    try:
        codes, ids = pd.factorize(values)
    except TypeError as error:
        raise DataError(
            f"{where} holds lists or tables; ids are whole numbers or texts."
        ) from error
    ids, place = _sorted(np.asarray(ids), where)
    return place[codes], ids


def _is_plain(text) -> bool:
    """Whether a text is how a whole number is written, and nothing else."""
    return isinstance(text, str) and len(text) < 19 and text.lstrip("-").isdecimal() and (
        str(int(text)) == text)  # fmt: skip


def _sorted(ids: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids in order, and the place of each in it."""
    try:
        order = np.argsort(ids, kind="stable")
    except TypeError as error:
        raise DataError(f"{where} mixes ids of several kinds; make them all texts.") from error
    place = np.empty(len(ids), np.int32)
    place[order] = np.arange(len(ids))
    return ids[order], place


def _numbers(column: pd.Series, where: str) -> np.ndarray:
    """Returns ratings as float32[n], after checking every one."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float32, na_value=np.nan)
    odd = ~np.isfinite(numbers)
    if odd.any():
        row = int(odd.argmax())
        raise DataError(f"{where}: row {row} has {shown(column.iloc[row])}; write a finite number.")
    return numbers


def _times(column: pd.Series, where: str) -> np.ndarray:
    """Returns times as int64[n], after checking every one."""
    if column.isna().any():
        raise DataError(f"{where}: row {column.isna().to_numpy().argmax()} has no time; add one.")
    column = column.astype(object).infer_objects() if column.dtype.kind == "O" else column
    if pd.api.types.is_bool_dtype(column):
        raise DataError(f"{where} holds truth values; name a column of times.")
    if pd.api.types.is_numeric_dtype(column):
        numbers = column.to_numpy()
        if numbers.dtype == object:  # of pandas' own kinds, which may lack values
            kind = np.int64 if pd.api.types.is_integer_dtype(column) else np.float64
            numbers = column.to_numpy(kind)
        whole = np.issubdtype(numbers.dtype, np.integer) or np.array_equal(
            numbers, np.round(numbers)
        )
        if not whole or np.abs(numbers.astype(float)).max() >= 2**62:
            raise DataError(f"{where} holds times that are not whole; round them to whole units.")
        return numbers.astype(np.int64)
    if column.dtype.kind == "O":
        written = pd.to_numeric(column, errors="coerce")
        if written.dtype.kind in "iuf" and written.notna().all():
            return _times(written, where)
    try:
        dates = pd.to_datetime(
            column, utc=True, format=None if column.dtype != object else "ISO8601"
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{where} holds what is no time, such as {shown(column.iloc[0])}; write whole "
            "numbers, or dates such as 2020-12-31 23:59:59."
        ) from error
    exact = dates.to_numpy("datetime64[us]").astype(np.int64)
    return exact if (exact % 1_000_000).any() else exact // 1_000_000


def _refuse_pairs(users, items, user_ids, item_ids, where: str) -> None:
    """Refuses two ratings of one item by one user."""
    pairs = users.astype(np.int64) * len(item_ids) + items
    if (pairs[1:] > pairs[:-1]).all():
        return
    ordered = np.sort(pairs)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        user, item = divmod(int(twice[0]), len(item_ids))
        raise DataError(
            f"{where}: user {user_ids[user]} rates item {item_ids[item]} twice; keep one, as "
            "drop_duplicates of pandas does."
        )
