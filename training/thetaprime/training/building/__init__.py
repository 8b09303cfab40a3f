"""From a task distribution to a measured artifact, in stages that can be interrupted."""
