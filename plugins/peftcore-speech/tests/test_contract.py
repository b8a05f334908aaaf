"""The contract of backbones, with what is true of speech where a token's rule does not hold."""

import torch

from peftcore import survey
from peftcore.testing import BackboneContract, tiny

# WavLM gives torch a mask of another dtype than its bias of positions


class WaveformContract(BackboneContract):
    heads = ("none", "ctc", "audio-classification")

    def test_the_context_marks_the_padding(self) -> None:
        """The mask is over frames, and is the one that the model itself makes."""
        for head in self.heads:
            knows, model, batch = tiny(self.backbone, head)
            context = knows.context(model.get_submodule(knows.entry(model)), (), batch)
            frames = model._get_feat_extract_output_lengths(batch["input_values"].shape[1])
            own = model._get_feature_vector_attention_mask(int(frames), batch["attention_mask"])
            assert context.mask is not None and torch.equal(context.mask, own)
            assert not bool(context.mask.all()), "the batch shall have padding"


class TestWav2Vec2(WaveformContract):
    backbone = "wav2vec2"


class TestHubert(WaveformContract):
    backbone = "hubert"


class TestWavLM(WaveformContract):
    backbone = "wavlm"

    def test_every_block_has_the_same_roles(self) -> None:
        """All blocks use the table of relative positions, which the first one owns."""
        knows, model, _ = tiny(self.backbone)
        first, second = (
            {s.role for s in survey(model, knows).sites if s.block == i} for i in (0, 1)
        )
        assert first - second == {"x-relative-position"} and not second - first


class TestWhisper(BackboneContract):
    backbone = "whisper"
    heads = ("none", "speech-seq2seq", "audio-classification")

    def test_every_block_has_the_same_roles(self) -> None:
        """Blocks of one side have; those of the decoder attend to the encoder besides."""
        knows, model, _ = tiny(self.backbone)
        roles = [{s.role for s in survey(model, knows).sites if s.block == i} for i in range(4)]
        assert roles[0] == roles[1] and roles[2] == roles[3]
        assert {role.partition(".")[0] for role in roles[2] - roles[0]} == {"cross_attention"}
        assert not roles[0] - roles[2]
