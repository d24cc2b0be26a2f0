-- Tells that a process is alive, and which processes are not. ARGV[3]: whether dead processes are
-- asked for, ARGV[4]: milliseconds that a take-over may take. Answers the milliseconds since this
-- process's heartbeat before (-1 for none), and the dead processes that it has to take over from.
local MAX_DEAD = 10
local before = redis.call('ZSCORE', processes, ARGV[1])
redis.call('ZADD', processes, millis(now), ARGV[1])
local since = before and millis(now - tonumber(before)) or '-1'
local dead = {}
if ARGV[3] == '1' then
  local last = millis(now - tonumber(ARGV[2]))
  for _, name in ipairs(redis.call('ZRANGE', processes, '-inf', last, 'BYSCORE', 'LIMIT', 0, MAX_DEAD)) do
    local taken_until = redis.call('ZSCORE', takers, name)
    if not taken_until or tonumber(taken_until) <= now then
      redis.call('ZADD', takers, millis(now + tonumber(ARGV[4])), name)
      dead[#dead + 1] = name
    end
  end
end
return { since, dead }
