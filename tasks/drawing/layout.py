"""A layered layout: positions of boxes and arrows. Pure: it knows box sizes and arrow ends, not what they show.

        break cycles -> layers -> one waypoint per layer an arrow crosses -> order within layers -> positions

Arrows run down the layers; those that close a cycle run up. A sideways layout has its layers from left to right.
Sweeps move each point to the mean of its neighbours; the order with the fewest crossings is kept. Then, layer by
layer, the positions are the least-squares solution that keeps the order and the gaps.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

#: Distances between neighbours in a layer, between waypoints, and between layers, in pixels.
GAP, WAYPOINT_GAP, LAYER_GAP = 28.0, 16.0, 44.0
#: Distance between the ends of two arrows at one box, in pixels.
PORT_GAP = 14.0

_ORDER_SWEEPS = 12
_PLACE_SWEEPS = 24
_STRAIGHTENINGS = 60

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Placed:
    """A layout.

    Attributes:
        width: Of the whole layout.
        height: Of the whole layout.
        centers: Center of each box by its id.
        paths: For each arrow, in the order of the argument, the points it passes: two consecutive ones in each layer.
        sideways: Whether the layers run from left to right.
    """

    width: float
    height: float
    centers: dict[str, Point]
    paths: tuple[tuple[Point, ...], ...]
    sideways: bool


def lay_out(
    sizes: Mapping[str, tuple[float, float]], arrows: Sequence[tuple[str, str]], *, sideways: bool = False
) -> Placed:
    """Lay out boxes and arrows.

    Args:
        sizes: Width and height of each box, in the order in which ties are resolved.
        arrows: Source and target of each arrow. An arrow from a box to itself gets a loop beside it.
        sideways: Layers from left to right instead of from top to bottom.
    """
    turned = {name: (height, width) if sideways else (width, height) for name, (width, height) in sizes.items()}
    layout = _Layout(turned, arrows)
    width, height, centers, paths = layout.result()
    if not sideways:
        return Placed(width, height, centers, paths, sideways)
    return Placed(
        height,
        width,
        {name: (y, x) for name, (x, y) in centers.items()},
        tuple(tuple((y, x) for x, y in path) for path in paths),
        sideways,
    )


class _Layout:
    """Points are the boxes, 0 to n - 1, and after them the waypoints."""

    def __init__(self, sizes: Mapping[str, tuple[float, float]], arrows: Sequence[tuple[str, str]]) -> None:
        self.names = list(sizes)
        index = {name: number for number, name in enumerate(self.names)}
        self.widths = [size[0] for size in sizes.values()]
        self.heights = [size[1] for size in sizes.values()]
        self.arrows = [(index[source], index[target]) for source, target in arrows]
        self.boxes = len(self.names)
        self.up = _closing_cycles(self.boxes, self.arrows)
        self.layer_of = self._layers()
        self.chains = [self._chain(number) for number in range(len(self.arrows))]
        self.above: list[list[int]] = [[] for _ in self.widths]
        self.below: list[list[int]] = [[] for _ in self.widths]
        for chain in self.chains:
            for upper, lower in pairwise(chain):
                self.below[upper].append(lower)
                self.above[lower].append(upper)
        self.layers = self._ordered()
        self.x = self._places()

    # -- layers ----------------------------------------------------------------------------------------------------

    def _downward(self, number: int) -> tuple[int, int]:
        source, target = self.arrows[number]
        return (target, source) if self.up[number] else (source, target)

    def _layers(self) -> list[int]:
        """The longest path from a source; boxes without a predecessor move down to just above their first successor."""
        downward = [self._downward(n) for n in range(len(self.arrows)) if self.arrows[n][0] != self.arrows[n][1]]
        successors: list[list[int]] = [[] for _ in range(self.boxes)]
        missing = [0] * self.boxes
        for source, target in downward:
            successors[source].append(target)
            missing[target] += 1
        layers = [0] * self.boxes
        sources = [box for box in range(self.boxes) if not missing[box]]
        waiting = list(sources)
        while waiting:
            box = waiting.pop()
            for target in successors[box]:
                layers[target] = max(layers[target], layers[box] + 1)
                missing[target] -= 1
                if not missing[target]:
                    waiting.append(target)
        for box in sources:
            if successors[box]:
                layers[box] = min(layers[target] for target in successors[box]) - 1
        return layers

    def _chain(self, number: int) -> list[int]:
        """The points an arrow passes, upper end first, with a new waypoint in each layer between."""
        upper, lower = self._downward(number)
        if upper == lower:
            return []
        chain = [upper]
        for layer in range(self.layer_of[upper] + 1, self.layer_of[lower]):
            chain.append(len(self.widths))
            self.widths.append(0.0)
            self.heights.append(0.0)
            self.layer_of.append(layer)
        return [*chain, lower]

    # -- order -----------------------------------------------------------------------------------------------------

    def _ordered(self) -> list[list[int]]:
        layers: list[list[int]] = [[] for _ in range(max(self.layer_of, default=-1) + 1)]
        for point in self._depth_first():
            layers[self.layer_of[point]].append(point)
        best, fewest = [list(layer) for layer in layers], self._crossings(layers)
        for sweep in range(_ORDER_SWEEPS):
            if not fewest:
                break
            downwards = sweep % 2 == 0
            numbers = range(1, len(layers)) if downwards else range(len(layers) - 2, -1, -1)
            for number in numbers:
                beside = layers[number - 1 if downwards else number + 1]
                self._sort(layers[number], beside, self.above if downwards else self.below)
            crossings = self._crossings(layers)
            if crossings < fewest:
                best, fewest = [list(layer) for layer in layers], crossings
        return best

    def _depth_first(self) -> list[int]:
        met: dict[int, None] = {}
        for start in range(self.boxes):
            waiting = [start] if not self.above[start] else []
            while waiting:
                point = waiting.pop()
                if point not in met:
                    met[point] = None
                    waiting.extend(reversed(self.below[point]))
        return list(met)

    @staticmethod
    def _sort(layer: list[int], beside: list[int], neighbours: list[list[int]]) -> None:
        place = {point: number for number, point in enumerate(beside)}
        own = {point: number for number, point in enumerate(layer)}

        def mean(point: int) -> float:
            found = [place[each] for each in neighbours[point]]
            return sum(found) / len(found) if found else own[point]

        layer.sort(key=mean)

    def _crossings(self, layers: list[list[int]]) -> int:
        total = 0
        for upper, lower in pairwise(layers):
            place = {point: number for number, point in enumerate(lower)}
            passed: list[int] = []
            for point in upper:
                targets = sorted(place[each] for each in self.below[point])
                total += sum(len(passed) - bisect_left(passed, target + 1) for target in targets)
                for target in targets:
                    insort(passed, target)
        return total

    # -- places ----------------------------------------------------------------------------------------------------

    def _places(self) -> list[float]:
        x = [0.0] * len(self.widths)
        for layer in self.layers:
            at = 0.0
            for point, offset in zip(layer, self._offsets(layer), strict=True):
                x[point] = at + offset
        for sweep in range(_PLACE_SWEEPS):
            downwards = sweep % 2 == 0
            for layer in self.layers if downwards else self.layers[::-1]:
                self._settle(layer, x, self.above if downwards else self.below)
        both = [up + down for up, down in zip(self.above, self.below, strict=True)]
        for layer in self.layers:
            self._settle(layer, x, both)
        self._straighten(x)
        left = min((at - self.widths[point] / 2 for point, at in enumerate(x)), default=0.0)
        return [at - left for at in x]

    def _straighten(self, x: list[float]) -> None:
        """Align points that are each other's only neighbour, alternating with restoring the gaps."""
        rows = self._rows()
        for _ in range(_STRAIGHTENINGS):
            wishes = list(x)
            for row in rows:
                middle = sum(x[point] for point in row) / len(row)
                for point in row:
                    wishes[point] = middle
            for layer in self.layers:
                self._pool(layer, [(wishes[point], 1.0) for point in layer], x)
            if all(abs(x[point] - wish) < 0.1 for point, wish in enumerate(wishes)):
                return

    def _rows(self) -> list[list[int]]:
        """Chains in which each point is the only lower neighbour of the one above, its only upper neighbour."""
        follower = {
            upper: lower
            for upper, lowers in enumerate(self.below)
            for lower in lowers
            if len(set(lowers)) == 1 == len(set(self.above[lower]))
        }
        rows = []
        for point in follower.keys() - set(follower.values()):
            row = [point]
            while row[-1] in follower:
                row.append(follower[row[-1]])
            rows.append(row)
        return rows

    def _offsets(self, layer: list[int]) -> list[float]:
        """The minimum distance of each point's center from the center of the first point."""
        offsets, at = [0.0] if layer else [], 0.0
        for one, other in pairwise(layer):
            is_waypoint = one >= self.boxes or other >= self.boxes
            at += (self.widths[one] + self.widths[other]) / 2 + (WAYPOINT_GAP if is_waypoint else GAP)
            offsets.append(at)
        return offsets

    def _settle(self, layer: list[int], x: list[float], neighbours: list[list[int]]) -> None:
        """Move a layer as close to its neighbours as order and gaps allow."""
        wishes = []
        for point in layer:
            pulls = [(x[each], self._pull(point, each)) for each in neighbours[point]]
            weight = sum(pull for _, pull in pulls)
            wish = sum(at * pull for at, pull in pulls) / weight if pulls else x[point]
            wishes.append((wish, weight or 0.2))
        self._pool(layer, wishes, x)

    def _pool(self, layer: list[int], wishes: list[tuple[float, float]], x: list[float]) -> None:
        """Place points as near to their weighted targets as order and gaps allow: isotonic regression by pooling."""
        pools: list[tuple[float, float, int]] = []  # mean, weight, points
        offsets = self._offsets(layer)
        for (wish, weight), offset in zip(wishes, offsets, strict=True):
            pool = (wish - offset, weight, 1)
            while pools and pools[-1][0] > pool[0]:
                mean, mass, count = pools.pop()
                together = mass + pool[1]
                pool = ((mean * mass + pool[0] * pool[1]) / together, together, count + pool[2])
            pools.append(pool)
        settled = [mean for mean, _, count in pools for _ in range(count)]
        for point, offset, at in zip(layer, offsets, settled, strict=True):
            x[point] = at + offset

    def _pull(self, one: int, other: int) -> float:
        """The weight of aligning two neighbours: straight long arrows matter more than centered boxes."""
        waypoints = (one >= self.boxes) + (other >= self.boxes)
        return (1.0, 2.0, 8.0)[waypoints]

    # -- result ----------------------------------------------------------------------------------------------------

    def result(self) -> tuple[float, float, dict[str, Point], tuple[tuple[Point, ...], ...]]:
        """Width, height, centers by name, and the paths of the arrows."""
        tallest = [max(self.heights[point] for point in layer) for layer in self.layers]
        middles, at = [], 0.0
        for height in tallest:
            middles.append(at + height / 2)
            at += height + LAYER_GAP
        height = max(0.0, at - LAYER_GAP)
        y = [middles[layer] for layer in self.layer_of]
        ends = self._ends()
        paths = []
        for number, chain in enumerate(self.chains):
            if not chain:
                paths.append(self._loop(self.arrows[number][0], y))
                continue
            points: list[Point] = []
            for place, point in enumerate(chain):
                half = tallest[self.layer_of[point]] / 2
                if point >= self.boxes:
                    points += [(self.x[point], y[point] - half), (self.x[point], y[point] + half)]
                    continue
                across = ends[number, place > 0]
                border = y[point] + (self.heights[point] / 2) * (-1 if place else 1)
                level = (across, y[point] + half * (-1 if place else 1))
                # The box is shorter than its layer: straight to the layer's edge first, so as to cross no other box.
                points += [level, (across, border)] if place else [(across, border), level]
            paths.append(tuple(points[::-1] if self.up[number] else points))
        loops = [point[0] for path, chain in zip(paths, self.chains, strict=True) if not chain for point in path]
        width = max([at + self.widths[point] / 2 for point, at in enumerate(self.x)] + loops, default=0.0)
        centers = {name: (self.x[number], y[number]) for number, name in enumerate(self.names)}
        return width, height, centers, tuple(paths)

    def _ends(self) -> dict[tuple[int, bool], float]:
        """Where each arrow touches its upper and its lower box: side by side, ordered by where they come from."""
        found: dict[tuple[int, bool], float] = {}
        touching: dict[tuple[int, bool], list[tuple[float, int]]] = {}
        for number, chain in enumerate(self.chains):
            if chain:
                touching.setdefault((chain[0], False), []).append((self.x[chain[1]], number))
                touching.setdefault((chain[-1], True), []).append((self.x[chain[-2]], number))
        for (box, is_lower), arrows in touching.items():
            room = max(0.0, self.widths[box] - 24)
            gap = min(PORT_GAP, room / max(1, len(arrows) - 1))
            for place, (_, number) in enumerate(sorted(arrows)):
                found[number, is_lower] = self.x[box] + (place - (len(arrows) - 1) / 2) * gap
        return found

    def _loop(self, box: int, y: list[float]) -> tuple[Point, ...]:
        right = self.x[box] + self.widths[box] / 2
        return ((right, y[box] + 6), (right + 22, y[box] + 6), (right + 22, y[box] - 6), (right, y[box] - 6))


def _closing_cycles(boxes: int, arrows: Sequence[tuple[int, int]]) -> list[bool]:
    """For each arrow, whether it closes a cycle; found depth first."""
    leaving: list[list[int]] = [[] for _ in range(boxes)]
    has_predecessor = [False] * boxes
    for number, (source, target) in enumerate(arrows):
        if source != target:
            leaving[source].append(number)
            has_predecessor[target] = True
    closing = [False] * len(arrows)
    unseen, open_, done = 0, 1, 2
    state = [unseen] * boxes
    for start in sorted(range(boxes), key=lambda box: has_predecessor[box]):
        if state[start] != unseen:
            continue
        state[start] = open_
        way = [(start, iter(leaving[start]))]
        while way:
            box, rest = way[-1]
            number = next(rest, -1)
            if number < 0:
                state[box] = done
                way.pop()
                continue
            target = arrows[number][1]
            if state[target] == open_:
                closing[number] = True
            elif state[target] == unseen:
                state[target] = open_
                way.append((target, iter(leaving[target])))
    return closing
