"""The 20 superclasses of CIFAR-100 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.errors import UserError

SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
"""Names of the five classes of each superclass, in the order of the published numbering."""


def superclass_of(classes: Sequence[str]) -> np.ndarray:
    """Number of the superclass of each class, int64. Raises `UserError` for a class that CIFAR-100 doesn't have."""
    numbers = {name: number for number, members in enumerate(SUPERCLASSES.values()) for name in members.split()}
    if unknown := [name for name in classes if name not in numbers]:
        raise UserError(f"cifar100-20 has no superclass for {unknown[0]}; fetch CIFAR-100 again")
    return np.array([numbers[name] for name in classes], dtype=np.int64)
