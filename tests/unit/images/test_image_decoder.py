"""An image is not built where nothing in it could compute a model as its configuration asks."""

import pytest

from images import vm_image
from images.errors import RecipeError
from images.lock import Lock, LockedWheel
from images.tree import Tree

LIBRARY = f"{vm_image.COMPILED}_decoder.so"
TORCH = LockedWheel("torch", "2", "torch-2-py3-none-any.whl", 1, "0" * 64)


def check(carried: str, kernels: str, *wheels: LockedWheel) -> None:
    tree = Tree()
    tree.add_file(carried, b"", "x 1")
    vm_image._require_decoder(tree, Lock("r", (), wheels), kernels)


@pytest.mark.parametrize(
    ("carried", "kernels"), [(LIBRARY, "torch"), ("app/x.so", "auto"), ("site/x.so", "compiled")]
)
def test_an_image_in_which_nothing_would_compute_is_refused(carried: str, kernels: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check(carried, kernels)
    assert caught.value.code == "decoder_missing"
    check(carried, kernels, TORCH)  # the control


@pytest.mark.parametrize("kernels", ["auto", "compiled"])
def test_the_compiled_decoder_computes(kernels: str) -> None:
    check(LIBRARY, kernels)


def test_kernels_of_a_gpu_need_no_decoder_for_processors() -> None:
    check("app/x.so", "cuda")
