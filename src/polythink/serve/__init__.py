"""An OpenAI-compatible server over the fork/join engine, and a page that shows the paths: `polythink serve`."""
