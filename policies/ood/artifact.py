"""A detector as one file: features, head and calibration, with the facts of how they came to be. An npz without pickles.

The three belong together: a head without its calibration does not load, nor does one of other features or another text.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.ood.calibrate import Calibration
from policies.ood.encoded import Encoded
from policies.ood.energy import SCORES, Head
from policies.ood.features import FEATURES, FEATURES_VERSION
from policies.ood.text import TEXT_VERSION, TextKind
from policies.ood.wordpiece import WordPieces

ARTIFACT_VERSION = 2
ARTIFACT_BYTES_MAX = 1 << 29
"""Bytes of all arrays of a file, unpacked."""
_FACTS = "facts"
_VOCABULARY = "vocabulary"
_FLOATS = tuple(name for name in Head._fields if name not in (_VOCABULARY, "encoded"))
_SCORES = "calibration.scores"
_SEGMENT = "calibration.segment."


class ArtifactError(ValueError):
    """The bytes are not a detector that this version can use; the message says why and what to do."""


class Versions(msgspec.Struct, frozen=True):
    """What an artifact was made by. All must be those of this code."""

    artifact: int = ARTIFACT_VERSION
    features: int = FEATURES_VERSION
    text: int = TEXT_VERSION


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """How a detector was fitted: what reports and the admin API show."""

    versions: Versions = Versions()
    text: TextKind
    """The guard text that it was fitted on."""
    scores: tuple[str, ...] = SCORES
    mix: Mapping[str, float]
    """The share of each score in the mix, as chosen; they add up to 1."""
    train_texts: int
    holdout_texts: int
    outliers: int = 0
    encoder: str = ""
    """SHA-256 of the weights of the encoder that scoring needs too; empty for none."""
    classes: int
    clustered: bool
    """The classes are clusters, as there were no labels (or too few)."""
    pseudo_auroc: float
    """Mean over the pseudo-OOD splits, of the mix; 0 to 100."""
    pseudo_fpr95: float


class Detector(msgspec.Struct, frozen=True):
    """A fitted and calibrated detector."""

    head: Head
    calibration: Calibration
    facts: Facts


def dumps(detector: Detector) -> bytes:
    """The file. The same detector always gives the same bytes."""
    head = detector.head
    arrays: dict[str, NDArray[Any]] = (
        dict(head._asdict())
        | head.encoded._asdict()
        | {
            "weights": head.weights.astype(np.float16),
            "vectors": head.vectors.astype(np.float16),
            _VOCABULARY: np.frombuffer("\n".join(head.vocabulary).encode(), np.uint8),
            _SCORES: detector.calibration.scores,
        }
    )
    arrays |= {_SEGMENT + name: scores for name, scores in detector.calibration.segments.items()}
    arrays[_FACTS] = np.frombuffer(msgspec.json.encode(detector.facts), np.uint8)
    del arrays["encoded"]
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def loads(data: bytes) -> Detector:
    """Read a file. Raises ArtifactError for one that is truncated, damaged, of another version or without its calibration."""
    arrays = _arrays(data)
    facts = _facts(arrays)
    if missing := {*_FLOATS, *Encoded._fields, _VOCABULARY} - arrays.keys():
        raise ArtifactError(f"the detector has no {', '.join(sorted(missing))}: fit it again")
    if _SCORES not in arrays or not len(arrays[_SCORES]):
        raise ArtifactError("the detector has no calibration: fit it again, with held-out texts")
    encoded = Encoded(**{name: np.ascontiguousarray(arrays[name], np.float32) for name in Encoded._fields})
    floats = {name: np.ascontiguousarray(arrays[name], np.float32) for name in _FLOATS}
    head = Head(**floats, vocabulary=_vocabulary(arrays[_VOCABULARY]), encoded=encoded)
    segments = {name.removeprefix(_SEGMENT): scores for name, scores in arrays.items() if name.startswith(_SEGMENT)}
    detector = Detector(head, Calibration(arrays[_SCORES], segments), facts)
    _check(detector)
    return detector


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size = sum(each.file_size for each in packed.infolist())
        if size > ARTIFACT_BYTES_MAX:
            raise ArtifactError(f"the detector is {size} bytes unpacked, more than {ARTIFACT_BYTES_MAX}")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ArtifactError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, OSError, NotImplementedError) as error:
        raise ArtifactError(f"the file is truncated, damaged or not a detector ({error})") from None


def _facts(arrays: Mapping[str, NDArray[Any]]) -> Facts:
    if _FACTS not in arrays:
        raise ArtifactError("the file is not a detector: it says nothing of how it was fitted")
    try:
        raw = arrays[_FACTS].tobytes()
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        versions = msgspec.json.decode(found.get("versions", msgspec.Raw(b"{}")), type=dict[str, int])
        # Before the rest: another version may have other facts.
        for name, ours in msgspec.structs.asdict(Versions()).items():
            if versions.get(name) != ours:
                raise ArtifactError(f"the detector is of {name} version {versions.get(name)}, and this Headgate reads {ours}: fit it again")
        return msgspec.json.decode(raw, type=Facts)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"the detector's facts cannot be read ({error})") from None


def _vocabulary(array: NDArray[Any]) -> tuple[str, ...]:
    try:
        pieces = tuple(array.tobytes().decode().split("\n")) if len(array) else ()
        if pieces:
            WordPieces(pieces)
    except ValueError as error:
        raise ArtifactError(f"the detector's vocabulary is damaged ({error}): fit it again") from None
    return pieces


def _check(detector: Detector) -> None:
    """Arrays that fit together, and nothing in them that is not a number."""
    head, scores = detector.head, detector.calibration.scores
    places, width = head.prototypes.shape[-1], head.vectors.shape[-1]
    vector, classes = len(head.encoded.near), head.classes
    shapes = {
        "idf": (FEATURES,), "seen": (FEATURES,), "weights": (FEATURES, len(head.bias) + places + width),
        "bias": (2 * detector.facts.classes,),
        "prototypes": (len(head.prototypes), places), "mix": (len(head.scores),), "vectors": (len(head.vocabulary), width),
        "hidden": (width + 1, head.hidden.shape[-1]), "out": (head.hidden.shape[-1] + 1 if width else 1, classes if width else 0),
        "encoded_head": (vector + 1, classes), "near": (vector, vector), "near_means": (classes, vector), "wide": (vector, vector),
        "wide_mean": (vector,),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(head.encoded if name in Encoded._fields else head, name)
        if array.shape != shape:
            raise ArtifactError(f"the detector's {name} are of shape {array.shape}, not {shape}: fit it again")
        if not np.isfinite(array).all():
            raise ArtifactError(f"the detector's {name} have values that are no numbers: fit it again")
    for name, each in {"": scores, **detector.calibration.segments}.items():
        if each.ndim != 1 or each.dtype != np.float64 or not np.isfinite(each).all() or (np.diff(each) < 0).any():
            raise ArtifactError(f"the detector's calibration {name} is damaged: fit it again")
