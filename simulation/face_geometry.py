"""The geometry of a simulated face: from standardised parameters and age to lengths, outlines and landmarks.

A face has its own plane: `u` points to the image's right, `v` down, the origin lies between the eyes, and the unit is
half the width of an average face. Every shape is a function of (u, v) that is evaluated at each pixel after the pose of
the head is undone, so the drawing is sharp at any size and the landmarks are exact. A parameter is a standard normal
deviate: 0 is the average child, +-1 is one standard deviation of healthy variation (`phenotypes.parameters`)."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

STANDARD_FIVE = ("eye_image_left", "eye_image_right", "nose_tip", "mouth_image_left", "mouth_image_right")
LANDMARK_NAMES = (
    STANDARD_FIVE
    + tuple(
        f"{name}_image_{side}"
        for name in (
            "inner_canthus",
            "outer_canthus",
            "upper_lid",
            "lower_lid",
            "brow_inner",
            "brow_peak",
            "brow_outer",
            "ala",
            "cupid_peak",
            "ear_top",
            "earlobe",
            "cheek",
            "gonion",
        )
        for side in ("left", "right")
    )
    + ("nasion", "subnasale", "lip_top", "stomion", "lip_bottom", "chin", "hairline")
)


@dataclass(frozen=True)
class Look:
    """A person's age, colours (sRGB in 0..1) and hair: everything about his looks that is no face parameter."""

    age_years: float
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    iris: tuple[float, float, float]
    hair_length: float  # 0 cropped .. 1 over the shoulders
    texture_seed: int  # freckles, strands, skin grain: the same in every photograph of a person


@dataclass(frozen=True)
class View:
    """One photograph: pose in degrees, framing as shares of the image side, light, expression, surroundings."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    face_width: float = 0.5  # of the image side
    centre: tuple[float, float] = (0.5, 0.5)
    light: tuple[float, float, float] = (-0.35, -0.55, 0.8)  # towards the light: right, down, to the camera
    ambient: float = 0.5
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    smile: float = 0.0  # -1 sad .. 1 smiling
    gaze: tuple[float, float] = (0.0, 0.0)
    background: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.75, 0.8, 0.85), (0.55, 0.6, 0.7))
    clothes: tuple[float, float, float] = (0.3, 0.4, 0.6)
    seed: int = 0


def step(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Smooth step from 0 below `low` to 1 above `high`; with `low > high` it falls instead."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bell(x: np.ndarray, width: float) -> np.ndarray:
    """Bell curve, 1 at x = 0 and 1/e at x = width."""
    return np.exp(-np.square(x / width))


def onset(z: float) -> float:
    """Strength 0..1.4 of an all-or-nothing sign (a cleft, a coloboma): 0 below 1.2 SD, 1 at 2.5 SD."""
    return float(np.clip((z - 1.2) / 1.3, 0, 1.4))


def shadowed(colour: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """Colour of skin under light: shadows are redder than lit parts, since light travels through skin.

    shade (h, w): about 0.3..1.2."""
    shade = np.clip(shade, 0.02, None)
    return colour * np.stack([shade**0.80, shade, shade**1.12], axis=-1)


class Shape:
    """Lengths and positions of one face, in face units, from its parameters and age.

    z: parameter name -> standard normal deviate (missing means 0, clipped to +-4.5). Proportions follow childhood: a
    young child has a larger forehead, larger eyes, fuller cheeks and a shorter nose and chin."""

    def __init__(self, z: dict[str, float], age_years: float, smile: float = 0.0):
        p = {k: float(np.clip(v, -4.5, 4.5)) for k, v in z.items()}
        self.z = lambda name: p.get(name, 0.0)
        z, young = self.z, float(np.exp(-age_years / 6.0))  # 1 at birth, 0.37 at six, 0.05 at eighteen
        # head outline
        self.face_width = 1.0 + 0.032 * z("face_width")
        self.chin_v = 1.39 - 0.14 * young + 0.055 * z("face_length") + 0.062 * z("chin_length")
        self.chin_width = (0.36 + 0.05 * young) * np.exp(0.15 * z("chin_width"))
        self.jaw_width = (
            0.77 + 0.045 * z("jaw_width") - 0.055 * z("lower_face_taper") + 0.03 * young + 0.022 * z("chin_length")
        )
        self.cheek_width = 0.945 + 0.030 * z("cheek_fullness") - 0.02 * z("lower_face_taper") + 0.02 * young
        self.forehead_width = 0.93 + 0.045 * z("forehead_width") + 0.012 * z("cranium_width") + 0.03 * young
        self.cranium_width = (1.0 + 0.03 * young + 0.045 * z("cranium_width")) * np.exp(0.035 * z("cranium_size"))
        self.top_v = -(1.42 + 0.16 * young + 0.075 * z("cranium_height") + 0.03 * z("forehead_height")) * np.exp(
            0.05 * z("cranium_size")
        )
        self.hairline_v = -(0.94 + 0.10 * young + 0.07 * z("forehead_height") + 0.085 * z("hairline_height"))
        # eyes
        self.eye_u = 0.455 * np.exp(0.05 * z("eye_spacing"))
        eye_scale = np.exp(0.05 * z("eye_size")) * (1 + 0.10 * young)
        half = 0.232 * np.exp(0.062 * z("palpebral_length")) * eye_scale
        self.inner_u = self.eye_u - half + 0.018 * z("inner_canthal_distance")
        self.outer_u = self.eye_u + half
        self.eye_opening = (
            0.122 * np.exp(0.12 * z("eye_opening") + 0.05 * z("eye_prominence")) * eye_scale * (1 + 0.05 * young)
        )
        self.slant = np.deg2rad(2.5 + 3.6 * z("palpebral_slant"))
        self.ptosis = max(0.0, 0.12 * z("ptosis")) + 0.04
        self.iris_radius = 0.118 * np.exp(0.07 * z("iris_size") + 0.05 * z("eye_size")) * (1 + 0.06 * young)
        # brows
        self.brow_v = -0.285 - 0.012 * z("brow_arch") + 0.02 * young
        self.brow_arch = 0.045 + 0.03 * z("brow_arch")
        self.brow_half = 0.044 * np.exp(0.2 * z("brow_thickness"))
        # nose
        self.nose_v = 0.54 - 0.12 * young + 0.052 * z("nose_length")  # tip
        self.subnasale_v = self.nose_v + 0.110 - 0.024 * z("nares_anteversion") + 0.012 * z("columella_length")
        self.nose_half = (0.235 - 0.01 * young) * np.exp(0.075 * z("nose_width") + 0.035 * z("alae_size"))
        self.bridge_half = 0.095 * np.exp(0.17 * z("nasal_bridge_width")) + 0.015 * young
        self.tip_half = 0.125 * np.exp(0.13 * z("nose_tip_width"))
        # mouth
        self.philtrum = (0.184 + 0.01 * young) * np.exp(0.165 * z("philtrum_length"))
        self.mouth_half = (0.345 - 0.05 * young) * np.exp(0.088 * z("mouth_width")) * (1 + 0.10 * max(0.0, smile))
        self.lip_up = 0.075 * np.exp(0.20 * z("upper_lip_thickness"))
        self.lip_low = 0.092 * np.exp(0.18 * z("lower_lip_thickness") + 0.08 * z("lower_lip_eversion"))
        self.gap = 0.085 * onset(0.75 + 0.85 * z("mouth_opening")) + 0.06 * onset(0.4 + z("tongue_protrusion"))
        self.stomion_v = self.subnasale_v + self.philtrum + self.lip_up
        self.corner = 0.012 + 0.026 * z("mouth_corner_height") + 0.045 * smile  # positive: corners up
        crowding = self.stomion_v + self.gap + self.lip_low + 0.13 - self.chin_v
        if crowding > 0:  # a long mid-face pushes the chin down rather than the lip through it
            self.chin_v += 0.75 * crowding
        # ears
        self.ear_v = 0.16 - 0.085 * z("ear_height") + 0.02 * young
        self.ear_half = 0.27 * np.exp(0.12 * z("ear_size"))
        self.ear_out = 0.06 * np.exp(0.33 * z("ear_protrusion")) + 0.02
        self.ear_tilt = np.deg2rad(8 + 7.5 * z("ear_rotation"))
        self.lobe = 0.10 * np.exp(0.22 * z("earlobe_size"))
        self._radii = self._outline()

    def _outline(self) -> np.ndarray:
        """Head outline as radius over 720 angles round (0, 0): half degrees from image right, growing downwards."""
        corner = [
            (0.0, self.top_v),
            (0.50 * self.cranium_width, self.top_v * 0.90),
            (0.86 * self.cranium_width, self.top_v * 0.62),
            (self.forehead_width * (0.93 + 0.07 * self.cranium_width), -0.40),
            (self.face_width, 0.05),
            (self.cheek_width * self.face_width, 0.50),
            (self.jaw_width * self.face_width, 0.66 * self.chin_v),
            (0.5 * (self.chin_width + self.jaw_width), 0.845 * self.chin_v),
            (self.chin_width * 0.80, 0.962 * self.chin_v),
            (0.0, self.chin_v),
        ]
        right = np.array(corner)
        lopsided = 0.018 * self.z("facial_asymmetry"), 0.03 * self.z("cranial_asymmetry")
        left = right[-2:0:-1] * [-1, 1]
        points = np.vstack([right, left])
        points[:, 0] += lopsided[0] * np.clip(points[:, 1], 0, None) + lopsided[1] * np.clip(-points[:, 1], 0, None)
        angle = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
        radius = np.hypot(*points.T)
        spline = CubicSpline(np.append(angle, angle[0] + 2 * np.pi), np.append(radius, radius[0]), bc_type="periodic")
        return spline(np.deg2rad(np.arange(0, 360, 0.5))).astype(np.float32)

    def inside(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rho, reach): distance of each place from the origin, and that of the outline in the same direction."""
        index = np.rad2deg(np.arctan2(v, u)) % 360 * 2
        low = index.astype(np.int32) % 720
        part = index - np.floor(index)
        reach = self._radii[low] * (1 - part) + self._radii[(low + 1) % 720] * part
        return np.hypot(u, v), reach

    def depth(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Coarse height towards the camera, a dome and the nose; used for the pose only."""
        rho, reach = self.inside(u, v)
        dome = 0.85 * np.clip(1 - np.square(rho / reach), 0, 1)
        return dome + self.nose_height(u, v)

    def nose_height(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Height of the nose over the face."""
        z = self.z
        along = np.clip((v + 0.05) / (self.nose_v + 0.05), 0, 1)  # 0 at the bridge, 1 at the tip
        width = 1.45 * self.bridge_half * (1 - along) + 1.25 * self.tip_half * along
        bridge = 0.09 + 0.036 * z("nasal_bridge_height")
        tip = 0.30 + 0.03 * z("nose_projection") + 0.02 * z("nose_tip_width")
        ridge = bridge * (1 - along) + tip * along**1.3 + 0.03 * z("nasal_ridge_convexity") * np.sin(np.pi * along)
        fade = step(-0.35, -0.02, v) * step(
            self.subnasale_v + 0.005, self.nose_v + 0.015 + 0.01 * z("nares_anteversion"), v
        )
        return np.clip(ridge, 0.0, None) * bell(u, width) * fade

    def landmarks(self) -> dict[str, tuple[float, float]]:
        """Named points in face units (u, v)."""
        points: dict[str, tuple[float, float]] = {}
        for side, s in (("left", -1), ("right", 1)):
            inner, outer, centre, opening = self.eye(s)
            droop = opening * self.ptosis
            points[f"eye_image_{side}"] = (centre[0], centre[1] - 0.15 * opening)  # middle of the open eye
            points[f"inner_canthus_image_{side}"], points[f"outer_canthus_image_{side}"] = tuple(inner), tuple(outer)
            points[f"upper_lid_image_{side}"] = (centre[0], centre[1] - opening + 2 * droop)
            points[f"lower_lid_image_{side}"] = (centre[0], centre[1] + 0.62 * opening)
            for name, x in (("inner", -1.0), ("peak", 0.3), ("outer", 1.0)):
                points[f"brow_{name}_image_{side}"] = (
                    s * (self.eye_u + 0.29 * x),
                    self.brow_line(np.float32(x)).item(),
                )
            points[f"ala_image_{side}"] = (s * self.nose_half, self.nose_v + 0.045)
            points[f"cupid_peak_image_{side}"] = (s * 0.07, self.stomion_v - self.lip_up)
            ear = self.ear_centre(s)
            points[f"ear_top_image_{side}"] = (ear[0] + s * 0.04, ear[1] - self.ear_half)
            points[f"earlobe_image_{side}"] = (ear[0], ear[1] + self.ear_half)
            points[f"mouth_image_{side}"] = (s * self.mouth_half, self.stomion_v - self.corner + 0.5 * self.gap)
            for name, v in (("cheek", 0.35), ("gonion", 0.66 * self.chin_v)):
                points[f"{name}_image_{side}"] = (s * self.half_width(s, v), v)
        points["nose_tip"] = (0.0, self.nose_v)
        points["nasion"], points["subnasale"] = (0.0, -0.04), (0.0, self.subnasale_v)
        points["lip_top"], points["stomion"] = (0.0, self.stomion_v - 0.85 * self.lip_up), (0.0, self.stomion_v)
        points["lip_bottom"], points["chin"] = (0.0, self.stomion_v + self.gap + self.lip_low), (0.0, self.chin_v)
        points["hairline"] = (0.0, self.hairline_v)
        return points

    def half_width(self, side: int, v: float) -> float:
        """Half width of the outline at height v: the largest u that is still inside."""
        u = side * np.linspace(0, 1.6, 400, dtype=np.float32)
        rho, reach = self.inside(u, np.full_like(u, v))
        return float(np.abs(u[rho <= reach]).max(initial=0.3))

    def eye(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Inner canthus, outer canthus and centre (u, v), and the opening upwards of the centre, of one eye.

        side: of the image, -1 left or 1 right."""
        lift = 0.012 * self.z("facial_asymmetry") * side
        half = 0.5 * (self.outer_u - self.inner_u)
        middle = 0.5 * (self.outer_u + self.inner_u)
        du, dv = half * np.cos(self.slant), half * np.sin(self.slant)
        inner = np.array([side * (middle - du), lift + dv])
        outer = np.array([side * (middle + du), lift - dv])
        return inner, outer, np.array([side * middle, lift]), self.eye_opening

    def brow_line(self, x: np.ndarray) -> np.ndarray:
        """Height v of the brow's middle line; x runs from -1 (inner end) to 1 (outer end)."""
        arch = self.brow_arch * (1 - np.square((x - 0.3) / 1.3)) * 1.6
        return self.brow_v + 0.03 - arch - 0.01 * self.z("brow_medial_flare") * np.clip(-x, 0, 1)

    def ear_centre(self, side: int) -> tuple[float, float]:
        return side * (self.half_width(side, self.ear_v) + 0.35 * self.ear_out), self.ear_v
