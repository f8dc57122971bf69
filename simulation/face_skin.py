"""Paints the visible skin of a simulated face: its relief under light, complexion, nostrils, brows, lips and mouth.

The eyes come from face_eyes.py. Every feature is painted in a small window round it; positions are in face units."""

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import ArrayLike

from simulation import face_eyes
from simulation.face_canvas import Canvas
from simulation.face_geometry import bell, onset, shadowed, step


class Skin:
    """The visible face in one window of the canvas."""

    def __init__(self, canvas: Canvas, u: np.ndarray, v: np.ndarray):
        self.canvas, self.shape, self.view = canvas, canvas.shape, canvas.view
        self.u, self.v, self.z = u, v, canvas.shape.z

    def window(self, centre: tuple[float, float], half: tuple[float, float]) -> tuple[slice, slice]:
        """Rows and columns of the smallest window that holds all pixels with |u - cu| < hu and |v - cv| < hv.

        centre: (cu, cv); half: (hu, hv)."""
        near = (np.abs(self.u - centre[0]) < half[0]) & (np.abs(self.v - centre[1]) < half[1])
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        if not len(rows):
            return slice(0, 0), slice(0, 0)
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

    @cached_property
    def relief(self) -> np.ndarray:
        """Height (h, w) towards the camera in face units."""
        u, v, z, s = self.u, self.v, self.z, self.shape
        side = np.abs(u)
        rho, reach = s.inside(u, v)
        height = 0.95 * np.clip(1 - np.square(rho / reach), 1e-4, 1) ** 0.62 + 0.72 * s.nose_height(u, v)
        eye = bell(side - s.eye_u, 0.26) * bell(v + 0.02, 0.17)
        height += (0.030 * z("eye_prominence") - 0.075) * eye
        height += (0.055 + 0.012 * z("eye_prominence")) * bell(side - s.eye_u, 0.15) * bell(v, 0.11)
        height += (0.035 + 0.022 * z("supraorbital_ridge")) * bell(side - 0.42, 0.34) * bell(v + 0.25, 0.10)
        height += (0.06 + 0.035 * z("malar_projection")) * bell(side - 0.52, 0.26) * bell(v - 0.36, 0.22)
        height += 0.045 * z("midface_projection") * bell(u, 0.42) * bell(v - 0.45, 0.34)
        height += (0.02 + 0.028 * z("cheek_fullness")) * bell(side - 0.58, 0.26) * bell(v - 0.74, 0.26)
        height += 0.045 * z("frontal_bossing") * bell(side - 0.36, 0.30) * bell(v + 0.62, 0.26)
        height += 0.07 * onset(z("metopic_ridge")) * bell(u, 0.055) * bell(v + 0.62, 0.34)
        height += (
            0.06
            * bell(side - 0.70 * s.nose_half, 0.075 + 0.006 * z("alae_size"))
            * bell(v - s.nose_v - 0.025, 0.07)
            * (1 + 0.22 * z("alae_size"))
        )
        height -= 0.05 * onset(z("tip_cleft")) * bell(u, 0.022) * bell(v - s.nose_v, 0.10)
        groove = step(s.subnasale_v - 0.02, s.subnasale_v + 0.03, v) * step(
            s.stomion_v - 0.6 * s.lip_up, s.stomion_v - 1.2 * s.lip_up, v
        )
        wide = 0.045 * np.exp(0.22 * z("philtrum_width"))
        depth = max(0.0, 0.022 + 0.013 * z("philtrum_depth"))
        height += groove * depth * (0.7 * bell(side - 1.7 * wide, 0.7 * wide) - bell(u, wide))
        mouth = step(1.25, 0.75, side / s.mouth_half)
        height += 0.045 * mouth * bell(v - (s.stomion_v - 0.5 * s.lip_up), 0.6 * s.lip_up + 0.02)
        low_lip = s.stomion_v + s.gap + 0.5 * s.lip_low
        height += (0.06 + 0.014 * z("lower_lip_eversion")) * mouth * bell(v - low_lip, 0.55 * s.lip_low + 0.02)
        fold = s.stomion_v + s.gap + 1.15 * s.lip_low + 0.035
        height -= (0.045 + 0.008 * z("lower_lip_eversion")) * bell(v - fold, 0.045) * bell(u, 0.24)
        chin = bell(u, 0.24 * s.chin_width / 0.38) * bell(v - (s.chin_v - 0.15), 0.12)
        height += (0.055 + 0.030 * z("chin_projection")) * chin
        height -= 0.06 * onset(z("chin_dimple")) * bell(u, 0.035) * bell(v - (s.chin_v - 0.16), 0.05)
        height -= 0.026 * self.crease(
            (s.nose_half + 0.03, s.nose_v - 0.02), (s.mouth_half + 0.09, s.stomion_v - 0.02), 0.035
        )
        height += (
            0.028
            * np.clip(z("periorbital_fullness"), -1, 4)
            * bell(side - s.eye_u, 0.22)
            * (bell(v - 0.17, 0.06) + 0.8 * bell(v + 0.15, 0.06))
        )
        return height

    def crease(self, start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
        """A line (h, w) between two points with a bell-shaped profile, on both sides of the face."""
        du, dv = end[0] - start[0], end[1] - start[1]
        side, v = np.abs(self.u) - start[0], self.v - start[1]
        along = np.clip((side * du + v * dv) / (du * du + dv * dv), 0, 1)
        return bell(np.hypot(side - along * du, v - along * dv), width) * np.sin(np.pi * np.clip(along, 0.08, 0.92))

    @cached_property
    def shade(self) -> np.ndarray:
        """Light (h, w) on the relief: ambient light, Lambert's law, and darkness in hollows. Also sets `gloss`."""
        height = self.relief
        down, right = np.gradient(height, self.canvas.pixel)
        light = np.array(self.view.light) / np.linalg.norm(self.view.light)
        normal = np.sqrt(1 + 0.60 * (right**2 + down**2))
        lambert = np.clip((-0.75 * right * light[0] - 0.75 * down * light[1] + light[2]) / normal, 0, None)
        blur = cv2.GaussianBlur(height, (0, 0), max(1.0, 0.10 * self.canvas.scale))
        hollow = np.clip(blur - height, 0, 0.08) * 2.2
        self.gloss = 0.10 * np.clip(lambert, 0, 1) ** 24
        return self.view.ambient + (1.14 - self.view.ambient) * lambert - hollow

    def painted(self) -> np.ndarray:
        """RGB of the whole window (h, w, 3), float32 in 0..1."""
        self.colour = np.broadcast_to(self.canvas.skin, (*self.u.shape, 3)).astype(np.float32)
        self.complexion()
        self.lips_and_mouth()
        self.colour = shadowed(self.colour, self.shade) + self.gloss[..., None]
        self.nostrils()
        for side in (-1, 1):
            self.eye(side)
        self.brows()
        return np.clip(self.colour, 0, 1)

    def lay(self, colour: ArrayLike, cover: np.ndarray, at: tuple = (slice(None), slice(None))) -> None:
        """Paints `colour` over the skin where `cover` (h, w) in 0..1 says so. at: the window's rows and columns."""
        self.colour[at] += (np.asarray(colour, np.float32) - self.colour[at]) * np.clip(cover, 0, 1)[..., None]

    def complexion(self) -> None:
        u, v, z, s, side = self.u, self.v, self.z, self.shape, np.abs(self.u)
        red = self.canvas.skin * [1.04, 0.72, 0.68]
        blush = 0.28 + 0.14 * np.clip(z("capillary_redness"), -2, 4)
        self.lay(red, np.clip(blush, 0, 0.9) * bell(side - 0.56, 0.24) * bell(v - 0.42, 0.20))
        self.lay(red, np.clip(blush, 0, 0.8) * 0.7 * bell(u, 0.14) * bell(v - s.nose_v, 0.10))
        dark = self.canvas.skin * [0.62, 0.52, 0.56]
        ring = bell(side - s.eye_u, 0.24) * bell(v - 0.12, 0.085)
        self.lay(dark, np.clip(0.12 + 0.13 * z("periorbital_darkness"), 0, 0.75) * ring)
        grain = 0.018 * self.canvas.texture(10, u, v, (45, 45)) + 0.022 * self.canvas.texture(11, u, v, (7, 7))
        self.colour *= (1 + grain)[..., None]
        freckles = onset(z("freckles"))
        if freckles:
            dots = (
                step(1.5, 2.1, self.canvas.texture(12, u, v, (30, 30))) * bell(v - 0.3, 0.34) * bell(side - 0.35, 0.42)
            )
            self.lay(self.canvas.skin * [0.66, 0.50, 0.42], 0.8 * freckles * dots)
        down = (
            0.30
            * onset(z("facial_hair"))
            * (
                bell(side - 0.85, 0.2) * step(-0.1, 0.4, v)
                + bell(v + 0.55, 0.35) * bell(u, 0.6)
                + bell(v - 0.5 * (s.subnasale_v + s.stomion_v), 0.07) * bell(u, s.mouth_half)
            )
        )
        self.lay(self.canvas.hair_colour, down * (0.7 + 0.3 * self.canvas.texture(13, u, v, (40, 12))))
        if onset(z("infraorbital_crease")):
            line = bell(v - 0.20 - 0.10 * (side - s.eye_u), 0.014) * bell(side - s.eye_u, 0.16)
            self.lay(dark, 0.7 * onset(z("infraorbital_crease")) * line)

    def nostrils(self) -> None:
        s, z = self.shape, self.z
        at = self.window((0, s.nose_v + 0.04), (s.nose_half + 0.15, 0.26))
        u, v = self.u[at], self.v[at]
        side = np.abs(u)
        seen = 0.021 * np.exp(0.26 * z("nares_anteversion"))
        x, y = (
            (side - 0.47 * s.nose_half) / (0.30 * s.nose_half),
            (v - (s.subnasale_v - 0.035) - 0.10 * (side - 0.1)) / seen,
        )
        dark = self.canvas.skin * [0.26, 0.16, 0.14]
        self.lay(dark, 0.92 * self.canvas.edge((1 - np.hypot(x, y)) * seen, 0.006), at)
        wing = np.abs(
            np.hypot(
                (side - 0.62 * s.nose_half) / (0.40 * s.nose_half),
                (v - s.nose_v - 0.02) / (0.085 + 0.008 * z("alae_size")),
            )
            - 1
        )
        outer = step(0.60, 0.85, side / s.nose_half) * step(s.nose_v - 0.09, s.nose_v - 0.02, v)
        self.lay(dark, 0.50 * bell(wing, 0.16) * outer, at)
        under = bell(v - s.subnasale_v - 0.012, 0.026) * bell(u, 0.85 * s.nose_half)
        self.lay(dark, 0.34 * under, at)
        columella = 0.30 * onset(0.8 + z("columella_length")) * bell(u, 0.035) * bell(v - s.subnasale_v, 0.028)
        self.lay(self.canvas.skin * [0.92, 0.80, 0.76], columella, at)
        if onset(z("tip_cleft")):
            self.lay(dark, 0.40 * onset(z("tip_cleft")) * bell(u, 0.014) * bell(v - s.nose_v, 0.085), at)

    def eye(self, side: int) -> None:
        centre = self.shape.eye(side)[2]
        at = self.window(tuple(centre), face_eyes.WINDOW)
        eye = face_eyes.Eye(self.canvas, side, self.u[at], self.v[at], self.shade[at])
        for colour, cover in eye.layers():
            self.lay(colour, cover, at)

    def brows(self) -> None:
        s, z = self.shape, self.z
        at = self.window((0, s.brow_v - 0.05), (1.0, 0.34))
        u, v = self.u[at], self.v[at]
        side = np.abs(u)
        x = (side - s.eye_u) / 0.29
        line = s.brow_line(np.clip(x, -1.3, 1.2))
        flare = 1 + 0.35 * onset(z("brow_medial_flare")) * step(-0.3, -1.0, x)
        half = s.brow_half * flare * (1 - 0.55 * np.clip(x, 0, 1) ** 1.5)
        ends = step(-1.12, -0.86, x) * step(1.16, 0.80, x)
        join = onset(z("synophrys"))
        middle = step(-0.7, -1.0, x) * join * 0.85 if join else 0.0
        body = np.exp(-(np.square((v - line) / half) ** 1.6)) * np.maximum(ends, middle)
        density = np.clip(0.72 + 0.19 * z("brow_density"), 0.03, 1.0)
        lateral = 1 - np.clip(0.25 * -z("lateral_brow_density"), -0.2, 0.95) * step(0.1, 0.7, x)
        strands = 0.90 + 0.12 * self.canvas.texture(14, u + 0.5 * v, v, (60, 24))
        colour = self.canvas.hair_colour * 0.55 * np.clip(self.shade[at], 0.5, 1.1)[..., None]
        self.lay(colour, body * density * np.clip(lateral, 0.03, 1.1) * strands, at)

    def lips_and_mouth(self) -> None:
        s, z, canvas = self.shape, self.z, self.canvas
        at = self.window((0, s.stomion_v + 0.1), (s.mouth_half + 0.12, 0.45))
        u, v = self.u[at], self.v[at]
        x = u / s.mouth_half
        round_x = np.clip(1 - np.square(x), 0, 1)
        middle = s.stomion_v - s.corner * np.square(x) + 0.5 * s.gap * np.square(x)
        bow = np.clip(0.24 + 0.10 * z("cupid_bow"), 0.0, 0.75)
        tent = onset(z("upper_lip_tent"))
        profile = (
            round_x**0.75
            * (1 - bow * bell(x, 0.14) + 0.5 * bow * bell(np.abs(x) - 0.22, 0.12))
            * (1 + 0.7 * tent * (bell(x, 0.35) - 0.4))
        )
        upper = middle - s.lip_up * profile
        gap = s.gap * round_x**0.8
        lower_start, lower = (
            middle + gap,
            middle
            + gap
            + s.lip_low * round_x**0.62 * (1 + 0.25 * max(0.0, z("lower_lip_eversion")) * bell(x, 0.5) * 0.3),
        )
        lip = canvas.skin * [0.90, 0.58, 0.58]
        soft = 0.006
        self.lay(lip * 0.93, canvas.edge(np.minimum(v - upper, middle - v), soft) * (np.abs(x) < 1), at)
        self.lay(lip * 1.06, canvas.edge(np.minimum(v - lower_start, lower - v), soft) * (np.abs(x) < 1), at)
        cleft = onset(z("cleft_lip"))
        if cleft:
            track = (
                bell(u - 0.085 - 0.10 * (s.stomion_v - v), 0.030 * cleft)
                * step(s.subnasale_v - 0.02, s.subnasale_v + 0.03, v)
                * step(middle + 0.01, middle - 0.01, v)
            )
            self.lay([0.50, 0.20, 0.20], 0.95 * track, at)
        inside = canvas.edge(np.minimum(v - middle, lower_start - v)) * (np.abs(x) < 1)
        if s.gap > 0.004:
            self.lay([0.22, 0.07, 0.07], inside, at)
            teeth = inside * step(0.55, 0.45, (v - middle) / np.maximum(gap, 1e-3))
            spaces = onset(z("tooth_spacing")) * step(0.80, 0.95, np.abs(np.sin(np.pi * (u / 0.075 + 0.5))))
            self.lay([0.95, 0.93, 0.88], teeth * (1 - spaces), at)
            tongue = onset(z("tongue_protrusion"))
            if tongue:
                out = 1 - np.hypot(u / (0.60 * s.mouth_half), (v - lower_start - 0.01) / (0.05 + 0.06 * tongue))
                self.lay(
                    np.array([0.82, 0.45, 0.45]) * (1 - 0.2 * bell(u, 0.02))[..., None],
                    canvas.edge(out * 0.1) * step(middle.min(), middle.min() + 0.03, v),
                    at,
                )
        seam = bell(v - middle, 0.0075) + 0.7 * bell(v - lower_start, 0.007) * (s.gap > 0.004)
        self.lay(lip * [0.42, 0.26, 0.26], 0.85 * seam * step(1.04, 0.96, np.abs(x)), at)
        corner = bell(np.abs(u) - s.mouth_half, 0.022) * bell(v - (s.stomion_v - s.corner + 0.5 * s.gap), 0.020)
        self.lay(canvas.skin * [0.55, 0.38, 0.36], 0.6 * corner, at)
