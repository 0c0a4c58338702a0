"""Tables as Parquet, with types, units and meanings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from swarm.disk import writing
from swarm.errors import SwarmError
from swarm.exports.rows import Column, Kind, Table

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise SwarmError(
        "pyarrow is not installed", "pip install pyarrow; or write a .csv file, which needs nothing"
    ) from error

_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "count": pa.int64(),
    "flag": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}
_ROWS_AT_ONCE = 20_000


def write(table: Table, path: Path, about: Mapping[str, str]) -> None:
    """Write a file with `about` in its metadata; it is there whole or not at all."""
    schema = pa.schema([_field(column) for column in table.columns], metadata=dict(about))
    partial = path.with_name(f"{path.name}.part")
    with writing(path):
        try:
            with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
                rows = iter(table.rows)
                while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
                    columns = [
                        pa.array(values, field.type)
                        for values, field in zip(zip(*chunk, strict=True), schema, strict=True)
                    ]
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _field(column: Column) -> pa.Field:
    about = {"description": column.meaning} | ({"unit": column.unit} if column.unit else {})
    return pa.field(column.name, _TYPES[column.kind], metadata=about)
