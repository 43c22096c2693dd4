"""Score predictions: metrics, plate assignment, scores by slice, leaderboard and figures. No torch."""
