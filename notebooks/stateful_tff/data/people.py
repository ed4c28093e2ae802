"""Who the users of MovieLens-1M said they are: gender, age and occupation, from `users.dat`.

Knows nothing of ratings files, downloads, splits, models and TFF.
"""

from __future__ import annotations

import os
import re

import numpy as np
import pandas as pd

from . import archives
from .ratings import DataError, Ratings

GENDERS = {"F": "women", "M": "men"}
AGES = {
    1: "under 18", 18: "18 to 24", 25: "25 to 34", 35: "35 to 44", 45: "45 to 49",
    50: "50 to 55", 56: "56 and over",
}  # fmt: skip
OCCUPATIONS = (
    "other or not specified", "academic or educator", "artist", "clerical or admin",
    "college or grad student", "customer service", "doctor or health care",
    "executive or managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales or marketing", "scientist", "self-employed", "technician or engineer",
    "tradesman or craftsman", "unemployed", "writer",
)  # fmt: skip
_CODES = (GENDERS, {str(code): age for code, age in AGES.items()})
_CODES += ({str(code): name for code, name in enumerate(OCCUPATIONS)},)
_COLUMNS = "gender", "age", "occupation"


def parse_users(data: bytes, where: str = "users.dat") -> pd.DataFrame:
    """Parses the users file of MovieLens-1M and checks every line of it.

    Args:
        data: the content of the file.
        where: its name, for error messages.

    Returns:
        Columns `gender`, `age` (a range of years) and `occupation`, in the words of the release's
        README, as categories in its order, indexed by the original user id. Zip codes are left
        out: few users share one.

    Raises:
        DataError: naming the first bad line.
    """
    if not isinstance(data, bytes | bytearray):
        raise DataError(f"The content of a file is bytes, not {type(data).__name__}.")
    rows = {}
    for number, line in enumerate(bytes(data).decode("ISO-8859-1").splitlines(), 1):
        fields = line.split("::")
        if len(fields) != 5 or not re.fullmatch(r"[1-9]\d{0,17}", fields[0], re.ASCII):
            raise DataError(
                f"{where}, line {number}: expected user id, gender, age, occupation and zip code, "
                "separated by '::'; unpack the file again."
            )
        for name, field, codes in zip(_COLUMNS, fields[1:4], _CODES, strict=True):
            if field not in codes:
                raise DataError(
                    f"{where}, line {number}: {name} is {field!r}, which is none of "
                    f"{', '.join(codes)}; unpack the file again."
                )
        if int(fields[0]) in rows:
            raise DataError(
                f"{where}, line {number}: user {fields[0]} was there before; keep one of the lines."
            )
        rows[int(fields[0])] = [c[f] for c, f in zip(_CODES, fields[1:4], strict=True)]
    if not rows:
        raise DataError(f"{where} is empty; unpack or download it again.")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS))
    for name, codes in zip(_COLUMNS, _CODES, strict=True):
        table[name] = pd.Categorical(table[name], list(codes.values()))
    return table.rename_axis("user")


def read_users(path: str | os.PathLike, ratings: Ratings) -> pd.DataFrame:
    """Reads who the users of some ratings are, from the folder or the zip that holds the ratings.

    Args:
        path: the folder or the zip, as for `read_movielens`.
        ratings: the ratings that were read from it.

    Returns:
        As `parse_users`, one row per user of the ratings, indexed by contiguous id.

    Raises:
        DataError: if there is no such file, a line of it is wrong, or a user is missing.
    """
    path = archives.as_path(path)
    found = [files for files in archives.find(path) if files.users_file]
    if not found:
        raise DataError(
            f"{path} holds no {archives.USERS_FILE}; of the releases only ml-1m has one that says "
            "gender, age and occupation."
        )
    where = found[0].users_file
    table = parse_users(found[0].read(where), where)
    missing = np.asarray(ratings.user_ids)[~np.isin(ratings.user_ids, table.index)]
    if len(missing):
        raise DataError(f"{where} has no line for user {missing[0]}; take it from the same zip.")
    return table.loc[ratings.user_ids].reset_index(drop=True).rename_axis("user")
