"""What every method must do."""

import peftcore
import pytest
from peftcore import AttachError
from peftcore.testing import MethodContract, perturb, run, same

DIRECT = "the model reads the weight there and never calls the layer"


class TestMola(MethodContract):
    method = "mola"
    config = {"rank": 2, "experts": {"path:**.0.**": 3, "default": 2}}
    refused_on = {"wavlm": f"{DIRECT}, and Experts is no change of a weight"}
    merges = False


class TestSparsePeft(MethodContract):
    method = "sparse_peft"
    config = {"rank": 2}
    refused_on = {"wavlm": rf"sparsity 0\.5 cannot act at .*: {DIRECT}\. Write sparsity: 0"}


class TestRouterTuning(MethodContract):
    method = "router_tuning"
    # the few rows of its batch are too alike
    on = {"hubert": {"level": "token"}}
    merges = False

    def test_two_adapters_act_one_at_a_time(self) -> None:
        """A router that is moved further decides the same, one that is turned round does not."""
        model, batch = self.pair()
        outputs = {}
        for name in ("a", "b"):
            adapter = self.attach(model, name=name)
            perturb(adapter)
            if name == "b":
                for parameter in adapter.parameters():
                    parameter.data.neg_()
            outputs[name] = run(model, batch)
        assert not same(outputs["a"], outputs["b"])
        for name in ("a", "b", "a"):
            peftcore.activate(model, name)
            assert same(run(model, batch), outputs[name])

    def test_generation_with_a_cache_is_generation_without(self) -> None:
        """With a cache the mean of a row is not known: an error, which names what works."""
        name, model, batch = self.writing()
        perturb(peftcore.attach(model, [self.choice(name)]))
        prompt = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with pytest.raises(AttachError, match="generate with use_cache=False, or write level: tok"):
            model.generate(**prompt, max_new_tokens=3, use_cache=True)
        model.generate(**prompt, max_new_tokens=3, use_cache=False)


class TestRouterTuningOfTokens(MethodContract):
    method = "router_tuning"
    merges = False
    test_two_adapters_act_one_at_a_time = TestRouterTuning.test_two_adapters_act_one_at_a_time
    config = {"level": "token", "targets": ["attention", "block"]}


class TestRed(MethodContract):
    method = "red"
    merges = False


class TestTiedLora(MethodContract):
    method = "tied_lora"
    config = {"rank": 2, "alpha": 1}
    refused_on = {"gemma": "which does more than a plain Embedding"}


class TestLst(MethodContract):
    method = "lst"
    config = {"reduction": 4, "heads": 2}
    merges = False


class TestSwaLora(MethodContract):
    method = "swa_lora"
    config = {"rank": 2, "alpha": 4, "dropout": 0.1}
    on = {"wavlm": {"dropout": 0}}
