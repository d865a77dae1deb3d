from reward_models import *
