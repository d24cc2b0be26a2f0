-- What both scripts of the heartbeat begin with. KEYS:
--
-- processes  the names of processes, by the time of the latest heartbeat
-- takers     the names of dead processes, by the time until which one process takes over from it
--
-- ARGV[1] is a name, ARGV[2] the milliseconds without a heartbeat after which a process is dead. The
-- server's time counts, so machines whose clocks differ agree.
local processes, takers = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function millis(number) return string.format('%.0f', number) end
