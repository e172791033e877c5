"""Teachers from ONNX files, with ONNX Runtime."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t3d.errors import CheckpointError, ConfigError, first_line
from t3d.io.files import refuse_unreadable
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.normalization import Normalization, from_metadata, missing_text, size_in

_SIZE = 224  # if neither the file nor the user gives one


class OnnxTeacher(Teacher):
    """ONNX model that maps normalized images to features.

    Args:
        name: Path of the file. The model has one input, float32 [n, 3, h, w]. The feature is its only output
            with 2 axes. If there is none, it is the only output with 4 axes, averaged over height and width.
            With a fixed n, frames are processed in batches of n.
        size: Side of the square input images, in pixels. None uses the file's own size, that in its metadata,
            or 224 if the file accepts any size.
        normalization: Mean and standard deviation of the images. None uses those in the file's metadata.

    Raises:
        CheckpointError: The file is missing or damaged.
        ConfigError: ONNX Runtime is not installed, the model does not take images, it returns no pooled
            feature, or it does not support this size; or neither `normalization` nor the file says how images
            are normalized.
    """

    def __init__(self, name: str, *, size: int | None, normalization: Normalization | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                f'teacher {name}: an ONNX file needs ONNX Runtime: pip install "t3d[onnx]"'
            ) from error
        path = Path(name)
        refuse_unreadable(path, name="ONNX file", error=CheckpointError)
        content = path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Weights in a second file would not be in the digest, and would be read from the working folder.
        # The path of a file, instead of a folder, prevents that.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path))
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            fix = (
                "; export it as one file (torch.onnx.export(..., external_data=False))"
                if "external data" in str(error).lower()
                else ""
            )
            raise CheckpointError(f"{path}: not a complete ONNX file ({first_line(error)}){fix}") from error
        inputs = session.get_inputs()
        shape = inputs[0].shape
        if (
            len(inputs) != 1
            or inputs[0].type != "tensor(float)"
            or len(shape) != 4
            or (isinstance(shape[1], int) and shape[1] != 3)
        ):
            described = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise ConfigError(
                f"{path}: takes {described}; a teacher must take one batch of images, float32 [n, 3, h, w]"
            )
        fixed = next((side for side in shape[2:] if isinstance(side, int)), None)
        if size is not None and fixed is not None and size != fixed:
            raise ConfigError(f"{path}: takes images of {fixed} × {fixed} pixels only; remove teacher.size")
        metadata = session.get_modelmeta().custom_metadata_map
        try:
            values = normalization or from_metadata(metadata)
        except ConfigError as error:
            fix = "set teacher.normalize, or teacher.mean and teacher.std"
            raise ConfigError(f"{path}: {error}; {fix}") from error
        if values is None:
            raise ConfigError(missing_text(str(path)))
        super().__init__(
            name,
            size=size or fixed or size_in(metadata) or _SIZE,
            mean=values.mean,
            std=values.std,
            weights_digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
        )
        self._session = session
        self._input = inputs[0].name
        self._batch = shape[0] if isinstance(shape[0], int) else None
        outputs = session.get_outputs()
        vectors, maps = ([one.name for one in outputs if len(one.shape) == rank] for rank in (2, 4))
        if len(vectors or maps) != 1:
            raise self._no_feature(", ".join(f"{one.name} {one.shape}" for one in outputs))
        self._output = (vectors or maps)[0]
        try:
            out = self.features(torch.zeros(2, 3, self.size, self.size))
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ConfigError(
                f"{path}: does not support images of {self.size} × {self.size} pixels (teacher.size): "
                f"{first_line(error)}"
            ) from error
        if out.ndim != 2 or len(out) != 2:
            raise self._no_feature(f"{self._output} {list(out.shape)} of two images")
        self.num_features = out.shape[1]

    def features(self, x: Tensor) -> Tensor:
        """See `Teacher`."""
        images = x.cpu().numpy()
        if self._batch is None:
            out = self._run(images)
        else:  # fill up a fixed batch with zeros
            parts = []
            for at in range(0, len(images), self._batch):
                part = images[at : at + self._batch]
                full = np.zeros((self._batch, *part.shape[1:]), np.float32)
                full[: len(part)] = part
                parts.append(self._run(full)[: len(part)])
            out = np.concatenate(parts)
        features = torch.from_numpy(out).to(x.device)
        return features.mean((2, 3)) if features.ndim == 4 else features

    def _run(self, images: np.ndarray) -> np.ndarray:
        result: np.ndarray = self._session.run([self._output], {self._input: images})[0]
        return result

    def _no_feature(self, outputs: str) -> ConfigError:
        return ConfigError(
            f"{self.name}: needs exactly one pooled feature among its outputs ({outputs}); "
            "export it with one output [n, features], or one map [n, features, h, w]"
        )
