"""What every method must do."""

from peftcore.testing import MethodContract, run


class TestSparse(MethodContract):
    method = "sparse"
    # beside its head it has no linear layers
    on = {"timm-cnn": {"targets": ["conv"]}}


class TestTwoOfFour(MethodContract):
    method = "sparse"
    config = {"pattern": "2:4", "score": "random"}
    # the other backbones see the default
    test_it_works_on_every_installed_backbone = None  # type: ignore[assignment]


class TestRemoved(MethodContract):
    method = "sparse"
    config = {"p": 0.4, "prune": "zero", "scope": "tensor"}
    test_it_works_on_every_installed_backbone = None  # type: ignore[assignment]

    def test_it_starts_as_the_base_or_says_that_it_does_not(self) -> None:
        model, batch = self.pair()
        bare = run(model, batch)
        self.attach(model)
        assert max((a - b).abs().max() for a, b in zip(bare, run(model, batch), strict=True)) > 0
