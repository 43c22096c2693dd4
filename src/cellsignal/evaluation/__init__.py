"""Score predictions: metrics, plate assignment, slices, leaderboard, figures. No torch!!."""
