// The page of the demo server. Its three parts do not depend on each other, except that `breaks.js` reads the live figures.

import { startBreaks } from './breaks.js';
import { startChat } from './chat.js';
import { startLive } from './live.js';

startBreaks();
startChat();
startLive();
