-- Walks the index KEYS[2] downwards. ARGV: prefix, now, where to begin, how many entries to read at most, how many webhooks at most,
-- their status or ''. Answers where to go on, or '', and of each webhook its record and its URL.
local CHUNK = 100
local bound, left, limit, status = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local found, count, last = {}, 0, ''
while left > 0 do
  local wanted = math.min(left, CHUNK)
  local members = redis.call('ZRANGE', KEYS[2], bound, '-', 'BYLEX', 'REV', 'LIMIT', 0, wanted)
  for _, member in ipairs(members) do
    if count == limit then return { last, found } end
    last = member
    local task = string.sub(member, -36)
    local w = redis.pcall('HMGET', p .. 'w:' .. task, 'r', 's', 'x')
    if w.err == nil and not w[1] then
      -- Its record is gone by itself; the rest of it follows with its expiry entry.
      redis.call('ZREM', KEYS[2], member)
    elseif w.err == nil and not is_expired({ x = w[3] or '' }) and (status == '' or status == w[2]) then
      local url = redis.pcall('HGET', p .. 'c:' .. task, 'u')
      if type(url) == 'string' then
        found[2 * count + 1], found[2 * count + 2] = w[1], url
        count = count + 1
      end
    end
  end
  if #members < wanted then return { '', found } end
  left, bound = left - wanted, '(' .. last
end
return { last, found }
