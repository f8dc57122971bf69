"""The picture on which a simulated face is painted: geometry under pose, soft edges, textures, layers of colour.

Layers are painted back to front on a float32 RGB picture in 0..1; the edge of every mask is antialiased over one
pixel."""

import cv2
import numpy as np
from numpy.typing import ArrayLike

from simulation.face_geometry import LANDMARK_NAMES, Look, Shape, View, step

BEHIND = {"hair": -0.30, "neck": -0.25, "ear": -0.06}  # depths in face units; they shift when the head turns


class Canvas:
    """One picture while it is painted. `a`, `b` (size, size): each pixel's place in the projected face plane, after the
    roll of the head is undone."""

    def __init__(self, shape: Shape, look: Look, view: View, size: int):
        self.shape, self.look, self.view, self.size = shape, look, view, size
        self.scale = view.face_width * size / 2  # px per face unit
        self.pixel = 1.0 / self.scale
        angle = np.deg2rad(view.roll)
        self.roll = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.turn = (np.sin(np.deg2rad(view.yaw)), np.cos(np.deg2rad(view.yaw)))
        self.nod = (np.sin(np.deg2rad(view.pitch)), np.cos(np.deg2rad(view.pitch)))
        y, x = np.mgrid[0:size, 0:size].astype(np.float32)
        x, y = (x + 0.5 - view.centre[0] * size) / self.scale, (y + 0.5 - view.centre[1] * size) / self.scale
        self.a = (self.roll[0, 0] * x + self.roll[1, 0] * y).astype(np.float32)
        self.b = (self.roll[0, 1] * x + self.roll[1, 1] * y).astype(np.float32)
        self.rgb = np.empty((size, size, 3), np.float32)
        self.hair_colour = (
            np.array(look.hair, np.float32)
            + 0.10 * np.clip(shape.z("hair_lightness"), -1, 4) * np.array([1.0, 0.86, 0.6], np.float32) * 0.6
        )
        self.hair_cover = float(np.clip(1.0 + 0.26 * (shape.z("hair_density") + 0.4), 0.12, 1.0))
        pale = 0.02 * shape.z("skin_lightness")
        self.skin = np.clip(np.array(look.skin, np.float32) * (1 + pale) + pale, 0.08, 0.97)

    # ---- geometry of the view
    def plane(self, depth: float) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of each pixel on a plane `depth` face units in front of the ears."""
        return (self.a - depth * self.turn[0]) / self.turn[1], (self.b - depth * self.nod[0]) / self.nod[1]

    def surface(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of each pixel on the face itself. Its depth is computed by fixed-point iteration on a coarse grid."""
        stride = max(1, self.size // 160)
        a, b = self.a[rows, columns], self.b[rows, columns]
        coarse_a, coarse_b = np.ascontiguousarray(a[::stride, ::stride]), np.ascontiguousarray(b[::stride, ::stride])
        u, v = coarse_a.copy(), coarse_b.copy()
        for _ in range(5):
            depth = self.shape.depth(u, v)
            u, v = (coarse_a - depth * self.turn[0]) / self.turn[1], (coarse_b - depth * self.nod[0]) / self.nod[1]
        if stride == 1:
            return u, v
        # Only the displacement, which is smooth, is interpolated; positions stay exact to the pixel.
        index_y, index_x = np.mgrid[0 : a.shape[0], 0 : a.shape[1]].astype(np.float32) / stride
        du, dv = (
            cv2.remap(d, index_x, index_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for d in (u - coarse_a, v - coarse_b)
        )
        return a + du, b + dv

    def project(self, u: float, v: float, depth: float) -> tuple[float, float]:
        """Image position (x, y) px of a point of the face."""
        a, b = u * self.turn[1] + depth * self.turn[0], v * self.nod[1] + depth * self.nod[0]
        x, y = self.roll @ np.array([a, b]) * self.scale
        return self.view.centre[0] * self.size + x - 0.5, self.view.centre[1] * self.size + y - 0.5

    def landmarks(self) -> np.ndarray:
        points = self.shape.landmarks()
        placed = []
        for name in LANDMARK_NAMES:
            u, v = points[name]
            depth = (
                BEHIND["ear"]
                if name.startswith("ear")
                else float(self.shape.depth(np.float32([u]), np.float32([v]))[0])
            )
            placed.append(self.project(u, v, depth))
        return np.array(placed, np.float32)

    def edge(self, distance: np.ndarray, soft: float = 0.0) -> np.ndarray:
        """Coverage 0..1 from a signed distance in face units, positive inside; `soft` widens the antialiased edge."""
        width = 0.7 * self.pixel + soft
        return step(-width, width, distance)

    def texture(self, name: int, u: np.ndarray, v: np.ndarray, per_unit: tuple[float, float]) -> np.ndarray:
        """Smooth random values with mean 0 and SD about 1 that move with the face.

        name: number of the texture; per_unit: cells per face unit along u and v."""
        noise = np.random.default_rng([self.look.texture_seed, name]).standard_normal((128, 128), dtype=np.float32)
        x, y = (u * per_unit[0] + 64).astype(np.float32), (v * per_unit[1] + 64).astype(np.float32)
        return cv2.remap(noise, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP) * 1.5

    def lay(self, colour: ArrayLike, cover: np.ndarray, at: tuple = (slice(None), slice(None))) -> None:
        """Paints `colour` over the picture where `cover` (h, w) in 0..1 says so."""
        self.rgb[at] += (np.asarray(colour, np.float32) - self.rgb[at]) * cover[..., None]

    def finish(self) -> np.ndarray:
        tinted = np.clip(self.rgb * np.array(self.view.tint, np.float32), 0, 1)
        return (tinted * 255 + 0.5).astype(np.uint8)
