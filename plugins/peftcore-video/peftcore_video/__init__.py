"""Video and text: retrieval and captions on CLIP's two towers and a LLaMA."""

from peftcore import TaskSpec, hookimpl


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
    ]
