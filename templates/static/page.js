// Each place has its module; the feed starts once all of them listen.

import "./header.js";
import "./deploy.js";
import "./activity.js";
import "./models.js";
import { start } from "./feed.js";

start();
