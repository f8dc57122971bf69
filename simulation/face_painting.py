"""Paints a picture of a simulated face from its background to its hair, and projects its landmarks.

Layers are painted back to front on a float32 RGB picture in 0..1; the edge of every mask is antialiased over one pixel.
Nothing here knows about diseases."""

import cv2
import numpy as np

from simulation.face_canvas import BEHIND, Canvas
from simulation.face_geometry import Look, Shape, View, bell, onset, shadowed, step
from simulation.face_skin import Skin


def paint_face(z: dict[str, float], look: Look, view: View, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One photograph before it is degraded.

    z: face parameters (standard normal deviates); size: side in px. Returns the picture (size, size, 3) uint8 RGB and
    the landmarks (len(LANDMARK_NAMES), 2) px as x, y, the standard five first."""
    canvas = Painting(Shape(z, look.age_years, view.smile), look, view, size)
    canvas.background()
    canvas.back_hair()
    canvas.neck_and_clothes()
    canvas.ears()
    canvas.head()
    canvas.front_hair()
    canvas.ear_tags()
    return canvas.finish(), canvas.landmarks()


class Painting(Canvas):
    """The layers of one photograph, from the background to the tags in front of the ears."""

    # ---- layers
    def background(self) -> None:
        top, bottom = (np.array(c, np.float32) for c in self.view.background)
        rng = np.random.default_rng(self.view.seed)
        down = np.linspace(0, 1, self.size, dtype=np.float32)[:, None, None]
        coarse = 0.3 * rng.standard_normal((6, 6, 3), dtype=np.float32) + rng.standard_normal(
            (6, 6, 1), dtype=np.float32
        )
        clutter = cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        self.rgb[:] = top * (1 - down) + bottom * down + 0.05 * clutter

    def strands(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Brightness of hair (h, w): long streaks, which curls break up."""
        curl = float(np.clip(self.shape.z("hair_curl"), -1, 4))
        wave = 0.05 * max(0.0, curl) * np.sin(9 * v + 3 * u)
        coarse = np.exp(-0.14 * self.shape.z("hair_coarseness"))
        fine = self.texture(1, u + wave, v, (26 * coarse, 2.0 + 4.0 * max(0.0, curl)))
        return 1 + 0.16 * fine + 0.10 * self.texture(2, u + wave, v, (9, 1.5 + 3 * max(0.0, curl)))

    def hair_shade(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        light = 0.85 - 0.12 * v - 0.16 * np.sign(self.view.light[0]) * -u
        forelock = 0.55 * onset(self.shape.z("white_forelock")) * bell(u - 0.12, 0.16) * step(0.0, -0.5, v)
        colour = self.hair_colour * (self.strands(u, v) * np.clip(light, 0.4, 1.25))[..., None]
        return np.clip(colour + forelock[..., None], 0.02, 0.98)

    def back_hair(self) -> None:
        u, v = self.plane(BEHIND["hair"])
        rho, reach = self.shape.inside(u, v)
        volume = (
            0.07 + 0.05 * np.clip(self.shape.z("hair_curl"), 0, 3) + 0.03 * self.shape.z("hair_coarseness")
        ) * self.hair_cover
        round_head = (reach * (1.03 + max(0.02, volume)) - rho) + 0.02 * self.texture(3, u, v, (6, 6)) * max(
            0.3, self.shape.z("hair_curl")
        )
        end = 0.15 + 1.7 * self.look.hair_length
        falling = np.minimum(
            self.shape.cranium_width * (1.02 + volume) - np.abs(u) + 0.05 * np.sin(3 * v) * self.look.hair_length,
            end - v - 0.25 * np.square(u) + 0.03 * self.texture(8, u, v, (16, 1)),
        )
        falling = np.where(v > 0, falling, -1)
        cover = np.maximum(
            self.edge(np.where(v < 0.25, round_head, -1), 0.01),
            self.edge(falling, 0.02) * (self.look.hair_length > 0.25),
        )
        dim = 0.95 - 0.35 * step(-0.6, 0.4, v)
        self.lay(self.hair_shade(u, v) * dim[..., None], cover * self.hair_cover**1.4)

    def neck_and_clothes(self) -> None:
        u, v = self.plane(BEHIND["neck"])
        chin = self.shape.chin_v
        neck = self.edge(0.44 + 0.05 * np.clip(v - chin, 0, 1) - np.abs(u)) * step(0.6, 0.8, v)
        shade = 0.78 - 0.30 * bell(v - chin - 0.05, 0.35) + 0.08 * bell(u, 0.3) + 0.1 * u * np.sign(self.view.light[0])
        self.lay(shadowed(self.skin, shade), neck)
        collar = v - (
            chin + 0.42 + 0.38 * np.sqrt(np.square(np.clip(np.abs(u) - 0.42, 0, None)) + 0.02) - 0.24 * bell(u, 0.42)
        )
        weave = (
            1
            + 0.05 * self.texture(4, u, v, (30, 30))
            + 0.10 * self.texture(5, u, v, (2.5, 1.2))
            - 0.15 * bell(collar, 0.05)
        )
        self.lay(np.array(self.view.clothes, np.float32) * weave[..., None], self.edge(collar))

    def ears(self) -> None:
        z, shape = self.shape.z, self.shape
        u, v = self.plane(BEHIND["ear"])
        for side in (-1, 1):
            centre_u, centre_v = shape.ear_centre(side)
            x, y = side * (u - centre_u), v - centre_v
            near = (np.abs(y) < 0.7) & (np.abs(x) < 0.6)
            if not near.any():
                continue
            rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
            at = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            x, y = x[at], y[at]
            tilt = shape.ear_tilt
            along, across = y * np.cos(tilt) - x * np.sin(tilt) * 0.6, x * np.cos(tilt) + y * np.sin(tilt)
            half, out = shape.ear_half, shape.ear_out + 0.13
            t = along / half
            width = out * np.clip(1 - np.square(t), 0, 1) ** 0.5 * (1 - 0.28 * t)
            body = np.where(np.abs(t) < 1, width - np.abs(across), -1)
            lobe = shape.lobe - np.hypot(across + 0.25 * out, (along - 0.86 * half) * 0.9)
            distance = np.maximum(body, lobe)
            fold = onset(z("helix_fold"))
            rim = bell(np.abs(across) / np.maximum(width, 1e-3) - (0.84 - 0.10 * fold), 0.13 + 0.05 * fold) * step(
                0.8, 0.5, t
            )
            concha = bell(across + 0.3 * out, 0.45 * out) * bell(along + 0.02, 0.42 * half)
            fold_shadow = fold * bell(along + 0.62 * half, 0.10 * half) * bell(across, out)
            shade = 0.80 + 0.16 * rim - 0.36 * concha - 0.42 * fold_shadow + 0.10 * np.sign(self.view.light[0]) * side
            self.lay(shadowed(self.skin * [1.0, 0.95, 0.93], shade), self.edge(distance), at)

    def head(self) -> None:
        shape = self.shape
        reach = 1.12 * max(shape.cranium_width, shape.face_width, 1.0)
        corners = np.array(
            [
                self.project(u, v, d)
                for u in (-reach, reach)
                for v in (shape.top_v * 1.1, shape.chin_v * 1.08)
                for d in (0, 0.5)
            ]
        )
        low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
        columns, rows = slice(max(0, low[0]), min(self.size, high[0])), slice(max(0, low[1]), min(self.size, high[1]))
        at = (rows, columns)
        u, v = self.surface(*at)
        skin = Skin(self, u, v)
        colour = skin.painted()
        rho, outline = shape.inside(u, v)
        cover = self.edge(outline - rho)
        self.rgb[at] += (colour - self.rgb[at]) * cover[..., None]
        self.head_at, self.head_uv = at, (u, v)

    def front_hair(self) -> None:
        shape, z, at = self.shape, self.shape.z, self.head_at
        u, v = self.head_uv
        rho, reach = shape.inside(u, v)
        height = (
            -shape.hairline_v
            - 0.12 * onset(z("widows_peak")) * bell(u, 0.12)
            + 0.14 * onset(z("frontal_upsweep")) * bell(u - 0.22, 0.22)
        )
        bare = (np.abs(u) / (0.95 * shape.forehead_width)) ** 3 + (
            np.clip(-v, 0, None) / height
        ) ** 3  # 1 on the hairline, a rounded arch
        hairline = bare - 1 + 0.022 * self.texture(6, u, v, (26, 4))
        crown = self.edge(0.3 * hairline, 0.022) * step(0.22, 0.0, v)
        low_side = 0.8 * onset(z("facial_hair")) * self.edge(np.abs(u) - 0.80, 0.06) * step(0.75, 0.2, v)
        inside = self.edge(1.02 * reach - rho, 0.01)
        patches = np.clip(self.hair_cover + (1 - self.hair_cover) * 0.55 * self.texture(7, u, v, (18, 4)), 0, 1)
        cover = np.clip(crown + low_side, 0, 1) * inside * patches
        self.lay(self.hair_shade(u, v), cover, at)

    def ear_tags(self) -> None:
        """Preauricular tags sit on the cheek, just in front of the ear."""
        size, at = onset(self.shape.z("ear_tag")), self.head_at
        if size:
            u, v = self.head_uv
            place = min(self.shape.half_width(side, self.shape.ear_v + 0.12) for side in (-1, 1)) - 0.075
            bump = 0.055 * size - np.hypot(np.abs(u) - place, v - self.shape.ear_v - 0.12)
            self.lay(shadowed(self.skin * [1.0, 0.9, 0.88], 0.7 + 9 * np.clip(bump, 0, 0.055)), self.edge(bump), at)
