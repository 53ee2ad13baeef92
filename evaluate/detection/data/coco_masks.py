"""Mask of one object in COCO's file: polygons, or run lengths as a list or as compressed text; checked."""

from __future__ import annotations

from typing import Any

from core.errors import UserError
from evaluate.detection.data.records import is_number


def mask_of(annotation: dict[str, Any], image: dict[str, Any], mask_format: str, where: str) -> Any:
    """Polygons unchanged, run lengths in pycocotools' compressed form.

    Raises `UserError` for a missing mask, for run lengths that don't fit the image, and for run lengths of an object
    that is not a crowd if masks are trained on as polygons.
    """
    from pycocotools import mask as coco_mask

    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        size = [image["height"], image["width"]]
        counts = segmentation.get("counts")
        if segmentation.get("size") != size:
            raise UserError(
                f"{where}: run lengths of size {segmentation.get('size')} on an image of {size}; fix the file"
            )
        if mask_format == "polygon" and not annotation["iscrowd"]:
            raise UserError(f"{where} has run lengths for a mask; set data.mask_format=bitmask")
        runs = run_lengths_of(counts)
        if runs is None:
            raise UserError(f"{where} has unreadable run lengths in its counts; fix the file")
        if sum(runs) != size[0] * size[1]:  # pycocotools would read or write past the mask
            raise UserError(f"{where}: run lengths cover {sum(runs)} pixels of {size[0] * size[1]}; fix the file")
        return coco_mask.frPyObjects({"size": size, "counts": runs}, *size)
    if not isinstance(segmentation, list) or not segmentation:
        raise UserError(f"{where} has no mask; fix the file, or set detector.masks=false")
    return segmentation


def box_of(annotation: dict[str, Any], image: dict[str, Any], where: str) -> list[float]:
    """Box around the mask of an object without one: left, top, width, height. Raises `UserError` if it has neither."""
    from pycocotools import mask as coco_mask

    mask = annotation.get("segmentation")
    if isinstance(mask, list) and mask and all(isinstance(one, list) and one for one in mask):
        values = [value for polygon in mask for value in polygon]
        if all(map(is_number, values)) and all(len(polygon) % 2 == 0 for polygon in mask):
            xs, ys = ([v for polygon in mask for v in polygon[start::2]] for start in (0, 1))
            return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    if isinstance(mask, dict):
        return [float(value) for value in coco_mask.toBbox(mask_of(annotation, image, "bitmask", where))]
    raise UserError(f"{where} has no bbox and no mask to take it from; fix the file")


def area_of(annotation: dict[str, Any], image: dict[str, Any]) -> tuple[float, str]:
    """Area in pixels, and its source: `mask`, or `box` for an object without a usable mask."""
    from pycocotools import mask as coco_mask

    _, _, width, height = annotation["bbox"]
    try:
        mask = mask_of(annotation, image, "bitmask", "")
    except UserError:
        return float(width * height), "box"
    if isinstance(mask, list):
        if not all(isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0 for one in mask):
            return float(width * height), "box"
        reach = 10 * max(image["height"], image["width"])  # pycocotools walks along each edge, however far it leads
        if not all(is_number(value) and abs(value) <= reach for one in mask for value in one):
            return float(width * height), "box"
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, image["height"], image["width"]))
    return float(coco_mask.area(mask)), "mask"


def run_lengths_of(counts: Any) -> list[int] | None:
    """The runs of a list, or of COCO's compressed text; None for anything else.

    The text holds 5 bits per character (code − 48), lowest first, bit 5 set if more follow, bit 4 of the last as sign;
    from the fourth run on it holds differences to the run before the last.
    """
    if isinstance(counts, str):
        runs: list[int] = []
        value = shift = 0
        for character in counts:
            code = ord(character) - 48
            if not 0 <= code < 64 or shift > 60:
                return None
            value |= (code & 0x1F) << shift
            shift += 5
            if not code & 0x20:
                value -= (code & 0x10) and 1 << shift
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value = shift = 0
        counts = runs if shift == 0 else None
    whole = isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
    return counts if whole and counts else None
