"""Paints one eye of a simulated face: lid skin, eyeball, iris and pupil, lid edges and lashes, as layers of colour.

Places are in face units, along the axis of the eye: x runs from -1 at the inner canthus to 1 at the outer one, y points
downwards. Parameters of the face (`z`) are standard normal deviates; 0 is the average child."""

from collections.abc import Iterator

import numpy as np

from simulation.face_canvas import Canvas
from simulation.face_geometry import bell, onset, step

Layer = tuple[np.ndarray | list[float], np.ndarray]  # colour (3,) or (h, w, 3), and coverage (h, w) in 0..1

WINDOW = (0.42, 0.40)  # half width and half height round the eye's centre that hold all of its layers
# RGB factors by which the skin's colour is multiplied.
CREASE, LID_SHADOW = [0.52, 0.40, 0.37], [0.70, 0.56, 0.54]
EPICANTHAL_FOLD, LOWER_EDGE = [0.60, 0.47, 0.43], [0.66, 0.44, 0.42]
LASH_SHADE = 0.25  # factor of the hair's colour
# RGB in 0..1.
WHITE_SCLERA, BLUE_SCLERA = np.array([0.93, 0.92, 0.90]), np.array([0.58, 0.70, 0.88])
REDDENED = np.array([0.05, 0.9, 0.9])  # what redness takes away from the white
LIGHTER_IRIS = np.array([0.5, 0.9, 1.1])  # what lightness adds to the iris
ODD_IRIS_LIGHTER, ODD_IRIS_DARKER = np.array([0.25, 0.40, 0.55]), np.array([-0.12, -0.25, -0.35])
PUPIL, CATARACT = np.array([0.03, 0.03, 0.035]), np.array([0.78, 0.80, 0.82])
CORNEAL_HAZE, GLINT = [0.80, 0.84, 0.88], [1, 1, 1]
CARUNCLE, EVERTED_LID = [0.80, 0.52, 0.48], [0.82, 0.42, 0.40]
# Shares of the iris's radius.
PUPIL_RADIUS, COLOBOMA_HALF_WIDTH, GLINT_RADIUS = 0.40, 0.36, 0.20
GLINT_RIGHT, GLINT_UP = 0.30, 0.34
RAYS = 17  # light and dark ones round the iris
# Inward squint of the full sign on one eye and on the other, in shares of its length.
SQUINT = {1: 0.13, -1: 0.03}


class Eye:
    """The eye on image side -1 (left) or 1 (right), in a window of the visible skin."""

    def __init__(self, canvas: Canvas, side: int, u: np.ndarray, v: np.ndarray, shade: np.ndarray):
        """u, v (h, w): places of the window's pixels on the face; shade (h, w): light on the skin there."""
        self.canvas, self.side, self.z = canvas, side, canvas.shape.z
        inner, outer, centre, self.opening = canvas.shape.eye(side)
        self.half = 0.5 * np.hypot(*(outer - inner))
        direction = (outer - inner) / (2 * self.half)
        du, dv = u - centre[0], v - centre[1]
        self.along = du * direction[0] + dv * direction[1]  # towards the outer canthus
        self.y = dv * direction[0] * side - du * direction[1] * side
        self.x = self.along / self.half
        self.shade = np.clip(shade, 0.45, 1.1)
        self.roundness = np.clip(1 - np.abs(self.x) ** 2.3, 0, 1)  # 1 in the middle, 0 at both canthi
        self.upper, self.lower = self._upper_lid(), self._lower_lid()
        self.epicanthus = max(0.0, 0.35 + self.z("epicanthus")) * 0.085
        # How far right of the fold over the inner canthus; negative: covered by it.
        self.beyond_fold = (self.x + 1) - self.epicanthus * (1.6 + np.clip(-self.y / self.opening, -0.8, 1) * 0.9)
        self.open_part = canvas.edge(self._inside())

    def _upper_lid(self) -> np.ndarray:
        """Height y of the upper lid's edge."""
        drooped = -self.opening * (1 - 2 * self.canvas.shape.ptosis)
        return drooped * self.roundness**0.72 * (1 + 0.10 * self.x)

    def _lower_lid(self) -> np.ndarray:
        """Height y of the lower lid's edge."""
        sag = 0.075 * onset(self.z("lower_lid_eversion")) * bell(self.x - 0.55, 0.30) * (np.abs(self.x) < 1)
        return 0.62 * self.opening * np.clip(1 - np.square(self.x), 0, 1) ** 0.8 + sag

    def _inside(self) -> np.ndarray:
        """Signed distance to the edge of the open eye, positive inside."""
        between_lids = np.minimum(self.y - self.upper, self.lower - self.y)
        return np.minimum(between_lids, np.minimum(self.beyond_fold, 1 - self.x) * self.half)

    def layers(self) -> Iterator[Layer]:
        """From back to front."""
        yield from self._lid_skin()
        yield from self._eyeball()
        yield from self._iris_and_pupil()
        yield from self._caruncle()
        yield from self._lashes()
        yield from self._lower_edge()

    def _lid_skin(self) -> Iterator[Layer]:
        x, y, z, skin = self.x, self.y, self.z, self.canvas.skin
        gap = 0.038 + 0.012 * np.clip(z("eye_prominence"), -2, 3) - 0.010 * max(0.0, z("periorbital_fullness"))
        below_crease = y - (self.upper - max(0.010, gap) * self.roundness**0.4)
        yield skin * CREASE, 0.55 * bell(below_crease, 0.011) * step(1.15, 0.8, np.abs(x))
        depth = 0.26 - 0.05 * z("eye_prominence")
        yield skin * LID_SHADOW, depth * bell(y - self.upper + 0.06, 0.06) * step(1.2, 0.7, np.abs(x))
        if self.epicanthus > 0.05:
            place = x + 1 - self.epicanthus * 1.8 - 0.04 + 0.35 * np.square(y / 0.12)
            strength = min(0.9, 2.6 * self.epicanthus)
            yield skin * EPICANTHAL_FOLD, strength * (bell(place, 0.085) * bell(y - 0.005, 0.11))

    def _eyeball(self) -> Iterator[Layer]:
        z = self.z
        blue = np.clip(0.03 + 0.10 * z("sclera_blueness"), 0, 0.5)
        white = WHITE_SCLERA * (1 - blue) + BLUE_SCLERA * blue
        white = white * (1 - 0.35 * np.clip(z("conjunctival_redness") / 4, 0, 1) * REDDENED)
        below_lid = step(-0.2, 0.6, (self.y - self.upper) / self.opening)  # the upper lid casts a shadow
        light = 0.70 + 0.36 * below_lid - 0.12 * np.square(self.x)
        yield white * light[..., None] * self.shade[..., None] ** 0.5, self.open_part

    def _iris_and_pupil(self) -> Iterator[Layer]:
        canvas, z, radius = self.canvas, self.z, self.canvas.shape.iris_radius
        dx, dy = self._from_iris_centre()
        distance = np.hypot(dx, dy)
        on_iris = self.open_part * canvas.edge(radius - distance)
        yield self._iris_disc(dx, dy, distance), on_iris
        cloud = np.clip(0.55 * onset(z("lens_opacity")), 0, 0.85)
        yield PUPIL * (1 - cloud) + CATARACT * cloud, on_iris * self._pupil(dx, dy, distance)
        yield CORNEAL_HAZE, 0.55 * np.clip(onset(z("corneal_haze")), 0, 1.3) * on_iris
        to_light = np.sign(canvas.view.light[0])
        glint = np.hypot(dx - GLINT_RIGHT * radius * to_light * self.side, dy + GLINT_UP * radius)
        yield GLINT, 0.9 * on_iris * canvas.edge(GLINT_RADIUS * radius - glint, 0.004)

    def _from_iris_centre(self) -> tuple[np.ndarray, np.ndarray]:
        """Place of each pixel seen from the middle of the iris, which gaze and squint move."""
        gaze = self.canvas.view.gaze
        squint = onset(abs(self.z("gaze_convergence"))) * np.sign(self.z("gaze_convergence")) * SQUINT[self.side]
        iris_x = 0.35 * self.half * gaze[0] * self.side - squint * self.half * 2.0 * 0.45
        iris_y = 0.25 * self.opening * gaze[1] + 0.02 * self.opening
        return self.along - iris_x, self.y - iris_y

    def _iris_disc(self, dx: np.ndarray, dy: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Colour of the iris (h, w, 3), brighter outwards, with rays and a dark rim."""
        look, radius = self.canvas.look, self.canvas.shape.iris_radius
        light = 0.08 * np.clip(self.z("iris_lightness"), -2, 4)
        iris = np.clip(np.array(look.iris) + light * LIGHTER_IRIS, 0.04, 0.85)
        asymmetry = onset(abs(self.z("iris_asymmetry")))
        if self.side == 1 and asymmetry:
            iris = iris + asymmetry * (ODD_IRIS_LIGHTER if iris.mean() < 0.4 else ODD_IRIS_DARKER)
        wave = np.sin(RAYS * np.arctan2(dy, dx) + look.texture_seed % 7)
        rays = 1 + 0.12 * wave * step(0.3, 0.8, distance / radius)
        disc = np.clip(iris * (0.75 + 0.45 * distance / radius)[..., None] * rays[..., None], 0.02, 0.95)
        disc *= (1 - 0.60 * bell(distance / radius - 1.0, 0.13))[..., None]
        return disc

    def _pupil(self, dx: np.ndarray, dy: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Coverage of the pupil, and of the notch below it that a coloboma is."""
        radius = self.canvas.shape.iris_radius
        pupil = self.canvas.edge(PUPIL_RADIUS * radius - distance)
        coloboma = onset(self.z("iris_coloboma"))
        if not coloboma:
            return np.maximum(pupil, 0)
        half_width = COLOBOMA_HALF_WIDTH * radius * coloboma
        notch = np.minimum(half_width - np.abs(dx), np.minimum(dy, radius - distance))
        return np.maximum(pupil, self.canvas.edge(notch))

    def _caruncle(self) -> Iterator[Layer]:
        yield CARUNCLE, 0.7 * (self.open_part * bell(self.x + 1 - 1.6 * self.epicanthus, 0.13))

    def _lashes(self) -> Iterator[Layer]:
        x, length, colour = self.x, self.z("lash_length"), self.canvas.hair_colour * LASH_SHADE
        below_lid, visible = self.y - self.upper, step(-0.02, 0.06, self.beyond_fold)
        width = 0.0085 * np.exp(0.30 * length)
        yield colour, 0.95 * (bell(below_lid + 0.35 * width, width) * step(1.06, 0.95, np.abs(x)) * visible)
        if length > 0.5:
            reach = 0.012 * (length + 0.5)
            hairs = step(0.2, 0.6, np.sin(46 * (x + 0.35 * below_lid / 0.1 * np.sign(x))))
            hairs = visible * hairs * step(-reach, -0.2 * reach, below_lid) * step(0.01, -0.01, below_lid)
            yield colour, 0.8 * hairs * step(1.1, 0.9, np.abs(x))

    def _lower_edge(self) -> Iterator[Layer]:
        below = self.y - self.lower
        yield self.canvas.skin * LOWER_EDGE, 0.55 * bell(below, 0.010) * step(1.02, 0.85, np.abs(self.x))
        everted = onset(self.z("lower_lid_eversion")) * bell(below - 0.014, 0.016) * bell(self.x - 0.5, 0.4)
        yield EVERTED_LID, 0.85 * everted
