"""Rollouts, the engines that sample them, and their grading."""
