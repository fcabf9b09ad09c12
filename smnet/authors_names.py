"""The parameter names in the authors' checkpoints, translated to ours."""

import re
from collections.abc import Callable

# Patterns tried in order, each on what the one before left. The authors' names mislead: `derain` is
# the noise stage, `sr` the image stage, `up_1..3` the encoder, `down_3, down_2, down_1` the
# decoder. DataParallel puts `module.` before a name, torch.compile `_orig_mod.`.
PATTERNS: list[tuple[str, str | Callable[[re.Match], str]]] = [
    (r"^(module\.|_orig_mod\.)+", ""),
    (r"^derain\.down_([21])_fusion\.", lambda m: f"noise_memory.merges.{2 - int(m[1])}."),
    (r"^derain\.fusion\.0\.", "noise_memory.merges.2."),
    (r"^derain\.fusion\.1\.", "noise_memory.head.0."),
    (r"^derain\.final_conv\.0\.", "noise_memory.head.1."),
    (r"^derain\.up_([123])\.", lambda m: f"noise_memory.encoder.{int(m[1]) - 1}."),
    (r"^derain\.down_([123])\.", lambda m: f"noise_memory.decoder.{3 - int(m[1])}."),
    (r"^derain\.conv([12])\.", lambda m: f"noise_memory.stem.{int(m[1]) - 1}."),
    (r"^sr\.conv([12])\.", lambda m: f"image_memory.stem.{int(m[1]) - 1}."),
    (
        r"^sr\.dense_([1-9])\.",
        lambda m: "image_memory.contextual.{}.dense.{}.".format(*divmod(int(m[1]) - 1, 3)),
    ),
    (r"^sr\.dilate_([123])\.0\.", lambda m: f"image_memory.contextual.{int(m[1]) - 1}.dilated."),
    (r"^sr\.fusion\.0\.", "image_memory.fusion.pointwise."),
    (r"^sr\.fusion\.1\.", "image_memory.fusion.conv."),
    (r"^sr\.UPNet\.0\.", "image_memory.expand."),
    (r"^sr\.UPNet\.2\.", "image_memory.project."),
    (r"\.region_non_local\.non_local_block\.", ".non_local."),
    (r"\.non_local\.(phi|g)\.0\.", r".non_local.\1."),
    (r"\.non_local\.W\.", ".non_local.out."),
    (r"\.conv_list\.([0-3])\.0\.", r".convs.\1."),
    (r"\.fusion\.0\.(weight|bias)$", r".fusion.\1"),
]


def translate_name(name: str) -> str:
    """A parameter's name in an authors' checkpoint -> its name here; ours stay as they are."""
    for pattern, replacement in PATTERNS:
        name = re.sub(pattern, replacement, name)
    return name
