"""`pictures.json`: what the report's pictures need of a run, bounded, checked on reading and hashed in `front.json`."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from autoprune.report.document import FrontDocument
from autoprune.report.parts import Count, Part, Share
from autoprune.storage import dump_json, parse_json, read_regular

PICTURES_FILE = "pictures.json"
PICTURES_LIMIT = 4 << 20
MOST_SHOWN = 4
MOST_GROUPS = 64
MOST_UNITS = 4096
MOST_FILTERS = 64
MOST_SAMPLES = 12
MOST_CLASSES = 20
LONGEST_SIDE = 48
LONGEST_TEXT = 400
LONGEST_NAME = 80

Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Bits = Annotated[str, Field(pattern=r"^[01]*$", max_length=MOST_UNITS)]
Side = Annotated[int, Field(ge=1, le=LONGEST_SIDE)]


class Raster(Part):
    """An image: base64 of [height, width, channels] bytes, row by row."""

    height: Side
    width: Side
    channels: Literal[1, 3]
    data: str

    @model_validator(mode="after")
    def _whole(self) -> Raster:
        if len(self.pixels()) != self.height * self.width * self.channels:
            raise ValueError("an image has another number of pixels than its size says")
        return self

    def pixels(self) -> bytes:
        """Return the bytes."""
        try:
            return base64.b64decode(self.data, validate=True)
        except binascii.Error as error:
            raise ValueError("an image is no base64") from error


class KeptUnits(Part):
    """Which units of a group stay: member id -> one character a unit of the dense model, 1 where it stays."""

    group: Name
    members: dict[str, Bits]

    @model_validator(mode="after")
    def _same_width(self) -> KeptUnits:
        if len({len(bits) for bits in self.members.values()}) > 1:
            raise ValueError(f"the members know different widths of {self.group!r}")
        return self


class Filters(Part):
    """The dense model's filters of a layer that sees images, one for each unit of `group`."""

    group: Name
    filters: tuple[Raster, ...] = Field(max_length=MOST_FILTERS)


class Answer(Part):
    """What a model says to a sample, with the probability that it gives it, and whether that is right."""

    text: Name
    share: Share | None = None
    right: bool | None = None


class SampleShown(Part):
    """A unit of val with the answers of the dense model and of members, by id."""

    id: Name
    image: Raster | None = None
    text: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None
    label: Name | None = None
    dense: Answer
    members: dict[str, Answer]


class Confusions(Part):
    """Units of test by label (row) and answer (column), of the dense model and of members, by id."""

    names: tuple[Name, ...] = Field(max_length=MOST_CLASSES)
    dense: tuple[tuple[Count, ...], ...]
    members: dict[str, tuple[tuple[Count, ...], ...]]

    @model_validator(mode="after")
    def _square(self) -> Confusions:
        n = len(self.names)
        for counts in (self.dense, *self.members.values()):
            if len(counts) != n or any(len(row) != n for row in counts):
                raise ValueError("a confusion matrix has not one row and column a class")
        return self


class Pictures(Part):
    """Everything that is drawn of `shown`, the picks among the members, beside the dense model.

    `groups_left_out` counts the groups that are not among `groups`: there are too many, or they are too wide.
    """

    schema_version: Literal["1.0"] = "1.0"
    shown: tuple[str, ...] = Field((), max_length=MOST_SHOWN)
    groups: tuple[KeptUnits, ...] = Field((), max_length=MOST_GROUPS)
    groups_left_out: Count = 0
    filters: Filters | None = None
    samples: tuple[SampleShown, ...] = Field((), max_length=MOST_SAMPLES)
    confusion: Confusions | None = None

    @model_validator(mode="after")
    def _told_apart(self) -> Pictures:
        if len({one.group for one in self.groups}) != len(self.groups):
            raise ValueError("two groups have the same name")
        return self

    def to_bytes(self) -> bytes:
        """Return the bytes of `pictures.json`."""
        return dump_json(self.model_dump(mode="json", exclude_none=True))


def digest_of(content: bytes) -> str:
    """Return the digest by which `front.json` knows its pictures."""
    return hashlib.sha256(content).hexdigest()


def read_pictures(run_dir: Path, front: FrontDocument) -> Pictures | None:
    """Return a run's pictures; None where there are none, or they are not those that the front was written with."""
    wanted = None if front.examination is None else front.examination.pictures_sha256
    if wanted is None:
        return None
    try:
        content = read_regular(run_dir / PICTURES_FILE, limit=PICTURES_LIMIT)
        return Pictures.model_validate(parse_json(content)) if digest_of(content) == wanted else None
    except (OSError, ValidationError, ValueError):
        return None
