"""Video and text: retrieval and captions on CLIP's two towers and a LLaMA."""

from peftcore import BackboneSpec, TaskSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> BackboneSpec:
    """Return CLIP's towers with a language model behind them."""
    return BackboneSpec(
        name="clip-captioner",
        summary="CLIP's two towers and a LLaMA that writes of frames; a reconstruction.",
        backbone="peftcore_video.backbone:ClipCaptionerBackbone",
        matches=("peftcore_video.captioner:ClipCaptioner",),
        configs=("clip-bigg-llama-7b",),
    )


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks on videos."""
    return [
        TaskSpec(
            name="video-retrieval",
            summary="Texts find their videos and videos their texts: MSR-VTT, ActivityNet, tables.",
            config="peftcore_video.retrieval:VideoRetrievalConfig",
            task="peftcore_video.retrieval:VideoRetrieval",
        ),
        TaskSpec(
            name="video-captioning",
            summary="A LLaMA writes what is seen in a video, by frames that CLIP embeds.",
            config="peftcore_video.captioning:VideoCaptioningConfig",
            task="peftcore_video.captioning:VideoCaptioning",
        ),
        TaskSpec(
            name="video-joint",
            summary="Retrieval and captions on one sum of losses, as AGAdapter; a reconstruction.",
            config="peftcore_video.joint:VideoJointConfig",
            task="peftcore_video.joint:VideoJoint",
        ),
    ]
