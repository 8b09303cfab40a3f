"""What there is to look at, drawn without a display.

| module | what |
|---|---|
| `style` | colors, sizes and files that all figures share |
| `evaluation` | the four-way curve of an evaluation; the learning curves of a meta-policy's runs |
| `adaptation` | one adaptation: return by round, and what the policy did before and after it |
| `returns`, `paths`, `gait` | the panels of it |
| `episodes` | what an environment says of an episode while it is played: the figures' data |
| `contacts` | which ends of a robot's limbs touch the ground |
| `clip` | a video of an episode before and after |
| `opengl` | what MuJoCo draws with where there is no display |
"""

from thetaprime.training.evaluation.figures.evaluation import curves_png, learning_png

__all__ = ["curves_png", "learning_png"]
