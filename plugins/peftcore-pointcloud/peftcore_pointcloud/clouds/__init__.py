"""Clouds as they lie on a disk: single files, and files and folders of many."""

from peftcore_pointcloud.clouds.files import cloud_at
from peftcore_pointcloud.clouds.layouts import rows_of

__all__ = ["cloud_at", "rows_of"]
