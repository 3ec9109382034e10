"""Regions of all images in the format of COCO's object detection, which annotation tools read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.results import Result

COCO_FILE = "coco.json"


def write_coco(folder: Path, results: Sequence[Result]) -> None:
    """Write the regions of all images as ``coco.json``, in the format of COCO's object detection."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for result in results:
        if result.width is None:  # it could not be read
            continue
        image = len(images) + 1
        images.append({"id": image, "file_name": result.picture, "width": result.width, "height": result.height})
        for region in result.regions:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": region.box,
                    "area": region.area,
                    "segmentation": [region.outline],
                    "iscrowd": 0,
                    "score": region.peak,
                }
            )
    categories = [{"id": 1, "name": "anomaly", "supercategory": "anomaly"}]
    record = {"images": images, "annotations": annotations, "categories": categories}
    files.write_text(folder / COCO_FILE, json.dumps(record, ensure_ascii=False) + "\n")
