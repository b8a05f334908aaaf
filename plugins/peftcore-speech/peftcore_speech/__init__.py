"""Speech models: WavLM, wav2vec 2.0, HuBERT, Whisper."""

from peftcore import BackboneSpec, FormatSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> list[BackboneSpec]:
    """Return the families of speech models."""
    return [
        BackboneSpec(
            name="wavlm",
            summary="WavLM (Chen et al. 2022), encoder of raw audio.",
            backbone="peftcore_speech.waveform:WavLM",
            matches=("transformers.models.wavlm.modeling_wavlm:*",),
            configs=("wavlm-base-plus",),
        ),
        BackboneSpec(
            name="wav2vec2",
            summary="wav2vec 2.0 (Baevski et al. 2020), encoder of raw audio.",
            backbone="peftcore_speech.waveform:Wav2Vec2",
            matches=("transformers.models.wav2vec2.modeling_wav2vec2:*",),
            configs=("wav2vec2-base",),
        ),
        BackboneSpec(
            name="hubert",
            summary="HuBERT (Hsu et al. 2021), encoder of raw audio.",
            backbone="peftcore_speech.waveform:Hubert",
            matches=("transformers.models.hubert.modeling_hubert:*",),
            configs=("hubert-base",),
        ),
        BackboneSpec(
            name="whisper",
            summary="Whisper (Radford et al. 2023), from log-mel frames to text.",
            backbone="peftcore_speech.whisper:Whisper",
            matches=("transformers.models.whisper.modeling_whisper:*",),
            configs=(
                "whisper-tiny",
                "whisper-base",
                "whisper-small",
                "whisper-medium",
                "whisper-large-v2",
            ),
        ),
    ]


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks on recordings."""
    return [
        TaskSpec(
            name="audio-classification",
            summary="One label for a recording, from folders, a table of paths, or a corpus.",
            config="peftcore_speech.classification:AudioClassificationConfig",
            task="peftcore_speech.classification:AudioClassification",
        ),
        TaskSpec(
            name="speech-recognition",
            summary="What is said in a recording, written by a Whisper.",
            config="peftcore_speech.recognition:SpeechRecognitionConfig",
            task="peftcore_speech.recognition:SpeechRecognition",
        ),
    ]


@hookimpl
def peftcore_register_formats() -> list[FormatSpec]:
    """Return the files that are recordings, each a row of a folder."""
    return [
        FormatSpec(ending, "A recording.", column="audio")
        for ending in (".wav", ".flac", ".ogg", ".mp3")
    ]
