"""Figures and videos, drawn without a display.

| module | contents |
|---|---|
| `style` | colors, sizes and file formats of all figures |
| `evaluation` | returns over gradient steps; learning curves of a meta-policy's runs |
| `lifetimes` | return by episode of experience, in a memory and by gradient |
| `adaptation` | one adaptation: return by round, and behavior before and after |
| `returns`, `paths`, `gait` | its panels |
| `episodes` | the data of an episode: rewards, positions, velocities, contacts |
| `contacts` | ground contacts of a robot's limbs |
| `clip` | a video of an episode before and after |
| `opengl` | the OpenGL backend of MuJoCo without a display |
"""

from thetaprime.training.evaluation.figures.evaluation import curves_png, learning_png

__all__ = ["curves_png", "learning_png"]
