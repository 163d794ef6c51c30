"""Letters, time and units used everywhere in `hb`.

Shapes    B batch · L tokens · D model width · V vocabulary · C H W picture · N draft-tree nodes
Time      t = 1 is noise, t = 0 is data;  x_t = (1 - t) x0 + t eps;  v = dx/dt = eps - x0
Laws      p is the target's, q is the draft's (Leviathan et al. 2023)
Counting  one NFE is one forward pass of the denoiser; guidance with two branches costs two
Pixels    [0, 1] in the world and for people, [-1, 1] inside the model; y grows downwards
Places    centers and radii are fractions of the picture's side, so that 64 and 128 pixels show the same scene
"""
