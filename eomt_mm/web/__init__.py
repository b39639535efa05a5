"""The browser page of tools/web_demo.py: what it shows, what it refuses, and gradio around both (extra [web])."""
