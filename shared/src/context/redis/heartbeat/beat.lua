-- Records the heartbeat of a process. ARGV[3] is 1 to look for dead processes. ARGV[4] is the time
-- limit of a recovery, in milliseconds. Returns the milliseconds since the previous heartbeat of
-- this process (-1 for none), and the dead processes that this process has to recover.
local MAX_DEAD = 10
local before = redis.call('ZSCORE', processes, ARGV[1])
redis.call('ZADD', processes, millis(now), ARGV[1])
local since = before and millis(now - tonumber(before)) or '-1'
local dead = {}
if ARGV[3] == '1' then
  local last = millis(now - tonumber(ARGV[2]))
  local names = redis.call('ZRANGE', processes, '-inf', last, 'BYSCORE', 'LIMIT', 0, MAX_DEAD)
  for _, name in ipairs(names) do
    local taken_until = redis.call('ZSCORE', takers, name)
    if not taken_until or tonumber(taken_until) <= now then
      redis.call('ZADD', takers, millis(now + tonumber(ARGV[4])), name)
      dead[#dead + 1] = name
    end
  end
end
return { since, dead }
