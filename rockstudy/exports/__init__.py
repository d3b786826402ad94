"""What leaves the study for other programs: rocks, token tables, rollouts, weights, claims."""
