"""A small model's weights in the form in which a processor reads prompts fastest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_core.errors import ExtraIsMissing


@contextmanager
def eight_bit(source: Path) -> Iterator[Path]:
    """The GGUF file `source` with its four-bit weights (Q4_1) as eight-bit ones (Q8_0), while the block runs.

    Each weight keeps its value to within 1/254 of the largest in its block of 32. llama.cpp multiplies whole prompts
    with Q8_0 in blocks, and with Q4_1 row by row. It reads prompts about 1.7 times as fast
    (docs/decisions/0014-demo.md).

    Raises:
        ExtraIsMissing: gguf is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="iccache-") as folder:
        target = Path(folder) / source.name
        _convert(source, target)
        yield target


def _convert(source: Path, target: Path) -> None:
    try:
        from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, Keys
        from gguf.quants import dequantize, quantize
    except ImportError as error:
        raise ExtraIsMissing("gguf", "demo") from error

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields[Keys.General.ARCHITECTURE].contents())
    for name, field in reader.fields.items():
        if name != Keys.General.ARCHITECTURE and not name.startswith("GGUF."):  # those the writer writes by itself
            outer, *inner = field.types
            writer.add_key_value(name, field.contents(), outer, inner[-1] if outer == GGUFValueType.ARRAY else None)
    q8 = GGMLQuantizationType.Q8_0
    for tensor in reader.tensors:
        if tensor.tensor_type == GGMLQuantizationType.Q4_1:
            writer.add_tensor(tensor.name, quantize(dequantize(tensor.data, tensor.tensor_type), q8), raw_dtype=q8)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
