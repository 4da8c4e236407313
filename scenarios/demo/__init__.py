"""`unimux demo`: the main job in one go, and a verdict on it from the captures."""
