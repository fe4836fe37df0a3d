"""What a run writes of itself as it goes, and the alarms that its figures raise."""
