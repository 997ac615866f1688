"""A long job in portions: an interruption of any kind loses one portion at most, and machines can share the work.

    OUTPUT.work/plan.json         what the result depends on, and how many portions there are
    OUTPUT.work/000000.parquet    rows and counts of one portion, written whole

Whoever finds all portions there merges them into OUTPUT and removes the folder. What a portion holds depends on the
plan and its number alone, so the result is the same to the byte however often the job was stopped.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from retriever.errors import IndexLocked, InvalidInput
from retriever.progress import Progress
from retriever.storage import disk_errors, exclusive_lock, require_writable, sync, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
KEY = b"retriever"
PLAN = "plan.json"
MAX_SHARDS = 4096
NAMED = 5

Counts = Mapping[str, int]


class Plan(BaseModel):
    """What the result depends on.

    job         the kind of job, such as "mine"
    depends_on  digests and settings; a job goes on only where they are the same
    facts       what is known before the first portion is made; goes into the result as it is
    sizes       how many queries each portion takes
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    job: str
    depends_on: dict[str, Any]
    facts: dict[str, Any]
    sizes: list[int]

    @property
    def digest(self) -> str:
        content = [self.format, self.job, self.depends_on, self.sizes]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Shard:
    """Which portions this process makes: those of `number` (from 1) when they are dealt out to `of` processes."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "2/8". Raises InvalidInput."""
        found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
        number, of = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= number <= of <= MAX_SHARDS:
            raise InvalidInput(
                f"a shard is NUMBER/OF, such as 2/8, with 1 <= NUMBER <= OF <= {MAX_SHARDS}; got {text!r}."
            )
        return cls(number, of)

    def portions(self, count: int) -> range:
        return range(self.number - 1, count, self.of)


WHOLE = Shard()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a job stands.

    metadata  that of the merged file; None while portions are missing
    missing   portions that nobody has made yet
    """

    metadata: dict[str, Any] | None
    missing: list[int]


def run(
    plan: Plan,
    output: Path,
    make: Callable[[int], tuple["pa.Table", Counts]],
    *,
    shard: Shard = WHOLE,
    restart: bool = False,
    quiet: bool = True,
) -> Outcome:
    """Make this shard's portions that are not there yet, and merge when all are.

    make     of a portion's number its rows and what was counted; counts are added up
    restart  throw away unfinished work, that of other shards too, and replace an output that is there

    An output of the same plan is left as it is. Raises InvalidInput when output or unfinished work are of another
    plan, naming what differs; IndexLocked when another process makes the same shard; StorageFull.
    """
    work = work_folder(output)
    require_writable(output.parent)
    if restart and work.exists():
        shutil.rmtree(work)
    if not _goes_on(plan, work) and output.exists() and not restart:
        return Outcome(_finished(plan, output), [])
    try:
        with disk_errors(output.parent):
            return _work(plan, work, output, make, shard, quiet)
    except FileNotFoundError:
        # Another shard found all portions there, merged them and removed the folder under our hands.
        if work.exists() or not output.exists():
            raise
        return Outcome(_finished(plan, output), [])


def _work(
    plan: Plan,
    work: Path,
    output: Path,
    make: Callable[[int], tuple["pa.Table", Counts]],
    shard: Shard,
    quiet: bool,
) -> Outcome:
    mine = work / f"shard-{shard.number}-of-{shard.of}"
    mine.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(mine):
        if not (work / PLAN).exists():
            write_atomically(work / PLAN, plan.model_dump_json(indent=1).encode())
        _make_missing(plan, work, make, shard, quiet)
    missing = [number for number in range(len(plan.sizes)) if not portion_file(work, number).exists()]
    if missing and work.exists():
        return Outcome(None, missing)
    try:
        with exclusive_lock(work):
            metadata = merge([work], output)
            # Another shard may be looking into the folder; what it leaves there is harmless.
            shutil.rmtree(work, ignore_errors=True)
            return Outcome(metadata, [])
    except IndexLocked:
        # Another shard is merging.
        return Outcome(None, [])


def work_folder(output: Path) -> Path:
    """Return the folder of unfinished work."""
    return output.with_name(f"{output.name}.work")


def portion_file(work: Path, number: int) -> Path:
    return work / f"{number:06d}.parquet"


def _make_missing(
    plan: Plan, work: Path, make: Callable[[int], tuple["pa.Table", Counts]], shard: Shard, quiet: bool
) -> None:
    numbers = shard.portions(len(plan.sizes))
    with Progress(plan.job, sum(plan.sizes[number] for number in numbers), quiet) as progress:
        for number in numbers:
            if not portion_file(work, number).exists():
                table, counts = make(number)
                metadata = {"plan": plan.digest, "portion": number, "counts": dict(counts)}
                write_atomically(portion_file(work, number), _bytes(table, metadata))
            progress.advance(plan.sizes[number])


def _bytes(table: "pa.Table", metadata: Mapping[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(encoded(metadata)), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def encoded(metadata: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return metadata as a Parquet schema holds it."""
    return {KEY: json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode()}


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what `encoded` put into a Parquet file. Raises InvalidInput when the file is none or has nothing of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = json.loads((pq.read_schema(path).metadata or {})[KEY])
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {path}.") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"{path} is no Parquet file of this project ({error}).") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: its metadata must be an object, got {type(content).__name__}.")
    return content


def _goes_on(plan: Plan, work: Path) -> bool:
    """Return whether there is unfinished work of this plan. Raises InvalidInput when it is of another."""
    if not (work / PLAN).exists():
        return False
    started = _read_plan(work)
    if started.digest != plan.digest:
        raise InvalidInput(
            f"{work} holds unfinished work with other settings: {_differences(started, plan)}. "
            "Run it with the settings that it was started with, or throw it away with --restart."
        )
    return True


def _read_plan(work: Path) -> Plan:
    try:
        return Plan.model_validate_json((work / PLAN).read_bytes())
    except FileNotFoundError:
        raise InvalidInput(f"{work} holds no unfinished work: it has no {PLAN}.") from None
    except ValidationError as error:
        raise InvalidInput(f"{work / PLAN} is damaged; begin again with --restart. {error}") from error


def _finished(plan: Plan, output: Path) -> dict[str, Any]:
    """Return the metadata of an output of this plan. Raises InvalidInput when it is another's."""
    try:
        metadata = read_metadata(output)
    except InvalidInput as error:
        raise InvalidInput(f"{output} exists already; choose another output, or replace it with --restart.") from error
    if metadata.get("plan") != plan.digest:
        raise InvalidInput(
            f"{output} exists and was made otherwise: {_differences(metadata, plan)}. "
            "Choose another output, or replace it with --restart."
        )
    return metadata


def _differences(before: Plan | Mapping[str, Any], plan: Plan) -> str:
    old = before.depends_on if isinstance(before, Plan) else before.get("depends_on", {})
    new = json.loads(plan.model_dump_json())["depends_on"]
    changed = [
        f"{name} was {_short(old.get(name))} and is {_short(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return "; ".join(changed) or "another job or format"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def merge(folders: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write all portions of work folders into one file, in their order, and return its metadata.

    folders  of the same plan, such as those of several machines; they stay as they are
    Holds one portion at a time. Raises InvalidInput for folders of different plans, a damaged portion, and missing
    ones, which it names.
    """
    import pyarrow.parquet as pq

    plans = [_read_plan(folder) for folder in folders]
    plan = plans[0]
    for folder, other in zip(folders, plans, strict=True):
        if other.digest != plan.digest:
            raise InvalidInput(f"{folder} and {folders[0]} are of different jobs: {_differences(other, plan)}.")
    there = {
        number: path
        for folder in reversed(folders)
        for number in range(len(plan.sizes))
        if (path := portion_file(folder, number)).exists()
    }
    if missing := [number for number in range(len(plan.sizes)) if number not in there]:
        raise InvalidInput(
            f"{len(missing)} of {len(plan.sizes)} portions are missing, such as {missing[:NAMED]}; run the same "
            "command on the shards that are not done, or without --shard, and merge again."
        )
    paths = [there[number] for number in range(len(plan.sizes))]
    counts: Counter[str] = Counter()
    for number, path in enumerate(paths):
        found_metadata = read_metadata(path)
        if found_metadata.get("plan") != plan.digest or found_metadata.get("portion") != number:
            raise InvalidInput(f"{path} is not portion {number} of this job; remove it and run the job again.")
        counts.update(found_metadata["counts"])
    metadata = {
        "format": plan.format, "job": plan.job, "plan": plan.digest, "depends_on": plan.depends_on,
        **plan.facts, "counts": dict(counts),
    }  # fmt: skip
    temporary = output.with_name(f".{output.name}.part")
    require_writable(output.parent)
    try:
        with disk_errors(output.parent):
            schema = pq.read_schema(paths[0]).with_metadata(encoded(metadata))
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for path in paths:
                    writer.write_table(pq.read_table(path).replace_schema_metadata(schema.metadata))
            sync(temporary)
            temporary.replace(output)
            sync(output.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return metadata
