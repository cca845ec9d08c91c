"""What must happen in Redis in one step, in Lua.

    PREFIXhead:RUN     hash: card, process, key, member, request, fields (once its head is there), sealed, last, until
    PREFIXrun:RUN      stream: `0-1` the head, `<seq>-<part>` events, the greatest id the end
    PREFIXbelow:KEY    sorted by member, `<number>:RUN`: every run below a key
    PREFIXkey:KEY      hash: the number and the run of the current one; the number stays when that is forgotten
    PREFIXcand:KEY:REQUEST   the candidate that a repetition of the request joins
    PREFIXwatch:RUN    sorted set: processes that read it, until when
    PREFIXlive:PROCESS the lease of a process: it lives while the key has more than STAY - LEASE to stay. So what is late can
                       renew it with PEXPIRE, which a full Redis does not refuse, as it does SET
    PREFIXwake:PROCESS stream: what a process should look at

RUN, KEY and REQUEST are hashes, in hex. Rules
  * Every script takes the prefix first and makes its keys itself: one server, no cluster.
  * Numbers of runs are twenty digits, and compared as text: a double has not enough of them.
  * Who is woken is told at most a thousand things, of which the oldest go first: a wake says "look", never what.
"""

from __future__ import annotations

from typing import Final

MAX_ID: Final = b"18446744073709551615-18446744073709551615"
LEASE: Final = 4000  # ms of a lease without being renewed
STAY: Final = 60_000  # ms that its key stays
EXTRA: Final = 60_000  # ms that keys stay beyond their time

_COMMON = (
    """
local P = ARGV[1]
local call = redis.call
local function later(key, ms)
  if call('PTTL', key) < tonumber(ms) then call('PEXPIRE', key, ms) end
end
local function wake(process, what, id)
  local key = P .. 'wake:' .. process
  call('XADD', key, 'MAXLEN', '~', 1000, '*', what, id)
  later(key, 60000)
end
local function now()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function lives(process)
  return call('PTTL', P .. 'live:' .. process) > """
    + str(STAY - LEASE)
    + """ and 1 or 0
end
local function record(id)
  local h = call('HMGET', P .. 'head:' .. id, 'card', 'process', 'fields', 'sealed', 'last', 'until')
  if not h[1] then return false end
  local first = '1'
  local e = call('XRANGE', P .. 'run:' .. id, '1', '+', 'COUNT', 1)
  if e[1] then first = string.match(e[1][1], '^(%d+)') end
  local alive = lives(h[2])
  return {h[1], h[2], h[3] or '', h[4] or '', h[5] or '', h[6] or '', tostring(alive), first}
end
local function release(id, h)
  local cand = P .. 'cand:' .. h[1] .. ':' .. h[2]
  if call('GET', cand) == id then call('DEL', cand) end
end
"""
)

# prefix, run, key, request, keyed, card, process, member, ms → 0, or the record of the candidate that this would repeat
BEGIN: Final = (
    _COMMON
    + """
local _, id, key, request, keyed, card, process, member, ms = unpack(ARGV)
if keyed == '1' then
  local cand = P .. 'cand:' .. key .. ':' .. request
  local other = call('GET', cand)
  if other then
    local r = record(other)
    if r and r[3] == '' and r[4] == '' and r[7] == '1' then return r end
  end
  call('SET', cand, id, 'PX', ms)
end
local below = P .. 'below:' .. key
for _, m in ipairs(call('ZRANGE', below, 0, 63)) do
  if call('EXISTS', P .. 'head:' .. string.sub(m, 22)) == 0 then call('ZREM', below, m) end
end
local head = P .. 'head:' .. id
call('HSET', head, 'card', card, 'process', process, 'key', key, 'member', member, 'request', request)
call('PEXPIRE', head, ms)
call('ZADD', below, 0, member)
later(below, ms)
return 0
"""
)

# prefix, run, fields, ms → 1; 0: there is no such run
HEAD: Final = (
    _COMMON
    + """
local _, id, fields, ms = unpack(ARGV)
local head = P .. 'head:' .. id
local h = call('HMGET', head, 'key', 'request', 'member', 'sealed')
if not h[1] then return 0 end
local first = call('HSETNX', head, 'fields', fields)
if h[4] then return 1 end
if first == 1 then pcall(call, 'XADD', P .. 'run:' .. id, '0-1', 'h', fields) end
local current = P .. 'key:' .. h[1]
local number = string.sub(h[3], 1, 20)
local there = call('HGET', current, 'number')
if not there or there < number then call('HSET', current, 'number', number, 'run', id) end
for _, key in ipairs({head, P .. 'run:' .. id, current, P .. 'below:' .. h[1]}) do later(key, ms) end
release(id, h)
return 1
"""
)

# prefix, run, end, ms (of a stream), ms (of a candidate), process, last or '', other end or '' → {end, last, until};
# 0: there is no such run; 1: it does not go as far as `last`, and there is no other end to put down for that
SEAL: Final = (
    _COMMON
    + """
local _, id, sealed, keep, linger, process, upto, otherwise = unpack(ARGV)
local head, run = P .. 'head:' .. id, P .. 'run:' .. id
local h = call('HMGET', head, 'key', 'request', 'process', 'fields', 'sealed', 'last', 'until')
if not h[1] then return 0 end
if h[5] then return {h[5], h[6], h[7]} end
local last = '0'
local e = call('XREVRANGE', run, '+', '-', 'COUNT', 1)
if e[1] then
  last = string.match(e[1][1], '^(%d+)')
  if e[1][2][1] == 'm' then last = string.format('%d', tonumber(last) - 1) end
end
if upto ~= '' and upto ~= last then
  if otherwise == '' then return 1 end
  sealed = otherwise
end
if not h[4] then keep = linger end
local till = string.format('%d', now() + keep)
call('HSET', head, 'sealed', sealed, 'last', last, 'until', till)
pcall(call, 'XADD', run, '"""
    + MAX_ID.decode()
    + """', 'z', '1')
local ms = keep + """
    + str(EXTRA)
    + """
for _, key in ipairs({head, run}) do call('PEXPIRE', key, ms) end
for _, key in ipairs({P .. 'key:' .. h[1], P .. 'below:' .. h[1]}) do later(key, ms) end
release(id, h)
if h[3] ~= process then wake(h[3], 'e', id) end
return {sealed, last, till}
"""
)

# prefix, run → 1. Nobody finds it any more; who reads it still reads its end.
FORGET: Final = (
    _COMMON
    + """
local id = ARGV[2]
local h = call('HMGET', P .. 'head:' .. id, 'key', 'request', 'member', 'sealed')
if h[1] then
  call('ZREM', P .. 'below:' .. h[1], h[3])
  if call('HGET', P .. 'key:' .. h[1], 'run') == id then call('HSET', P .. 'key:' .. h[1], 'run', '') end
  release(id, h)
end
local keys = {P .. 'head:' .. id, P .. 'run:' .. id, P .. 'watch:' .. id}
if h[4] then
  call('HSET', keys[1], 'until', '0')
  for _, key in ipairs(keys) do call('PEXPIRE', key, 10000) end
else
  call('DEL', unpack(keys))
end
return 1
"""
)

# prefix, run → {end, last, until}; 0: there is none
END: Final = (
    _COMMON
    + """
local h = call('HMGET', P .. 'head:' .. ARGV[2], 'sealed', 'last', 'until')
if not h[1] then return 0 end
return h
"""
)

# prefix, run or '', key or '' → {record of the run or 0, {record…, each with 1 where it is current}}
LOOK: Final = (
    _COMMON
    + """
local run, keys = 0, {}
if ARGV[2] ~= '' then
  local r = record(ARGV[2])
  if r then
    run = r
    keys[call('HGET', P .. 'head:' .. ARGV[2], 'key')] = true
  end
end
if ARGV[3] ~= '' then keys[ARGV[3]] = true end
local out = {}
for key in pairs(keys) do
  local current = call('HGET', P .. 'key:' .. key, 'run')
  for _, m in ipairs(call('ZRANGE', P .. 'below:' .. key, 0, -1)) do
    local id = string.sub(m, 22)
    local r = record(id)
    if r then
      r[9] = (id == current) and '1' or '0'
      r[10] = m
      out[#out + 1] = r
    end
  end
end
table.sort(out, function(a, b) return a[10] < b[10] end)
return {run, out}
"""
)

# prefix, run, process, ms → {its owner's process, fields or ''}; 0: there is no such run
READ: Final = (
    _COMMON
    + """
local _, id, process, ms = unpack(ARGV)
local h = call('HMGET', P .. 'head:' .. id, 'process', 'fields', 'sealed')
if not h[1] then return 0 end
if not h[3] then
  local watch = P .. 'watch:' .. id
  call('ZADD', watch, now() + ms, process)
  call('PEXPIRE', watch, ms * 2)
  wake(h[1], 'w', id)
end
return {h[1], h[2] or ''}
"""
)

# What WATCH says of a run; 0: it is gone.
LIVES: Final = 1  # its owner's lease is there
UNLEASED: Final = 2  # it is there, and its owner's lease is not
SEALED: Final = 3
AWAY: Final = 4  # gone, but its owner lives and may put it down again

# prefix, process, ms, (run, owner)… → one of the above for each
WATCH: Final = (
    _COMMON
    + """
local process, ms = ARGV[2], ARGV[3]
local till, out = now() + ms, {}
for i = 4, #ARGV, 2 do
  local h = call('HMGET', P .. 'head:' .. ARGV[i], 'process', 'sealed')
  if not h[1] then out[#out + 1] = 4 * lives(ARGV[i + 1])
  elseif h[2] then out[#out + 1] = 3
  else
    local watch = P .. 'watch:' .. ARGV[i]
    call('ZADD', watch, till, process)
    call('PEXPIRE', watch, ms * 2)
    out[#out + 1] = 2 - lives(h[1])
  end
end
return out
"""
)

# prefix, run… → how many processes read each
WATCHERS: Final = (
    _COMMON
    + """
local t, out = now(), {}
for i = 2, #ARGV do
  local watch = P .. 'watch:' .. ARGV[i]
  call('ZREMRANGEBYSCORE', watch, '-inf', t)
  out[#out + 1] = call('ZCARD', watch)
end
return out
"""
)

# prefix, key: wake who waits there → 1
RING: Final = (
    _COMMON
    + """
call('XADD', ARGV[2], 'MAXLEN', '~', 1000, '*', 'a', '1')
later(ARGV[2], 60000)
return 1
"""
)

# prefix, run, process: one reads it no more → 1
LEFT: Final = (
    _COMMON
    + """
call('ZREM', P .. 'watch:' .. ARGV[2], ARGV[3])
local owner = call('HGET', P .. 'head:' .. ARGV[2], 'process')
if owner then wake(owner, 'w', ARGV[2]) end
return 1
"""
)

# prefix, run, card, process, key, request, member, keyed, fields or '', ms, id or '' → {end, last, until, ''}, or {'', seq,
# part, 1 where that event is not whole}: what there is of a run of one's own; what was lost of it is there again, but for
# events. `id`: something was refused behind it, so what was taken behind that goes.
RESTORE: Final = (
    _COMMON
    + """
local _, id, card, process, key, request, member, keyed, fields, ms, behind = unpack(ARGV)
local head, run = P .. 'head:' .. id, P .. 'run:' .. id
local h = call('HMGET', head, 'sealed', 'last', 'until')
if h[1] then return {h[1], h[2], h[3], ''} end
call('HSET', head, 'card', card, 'process', process, 'key', key, 'member', member, 'request', request)
call('ZADD', P .. 'below:' .. key, 0, member)
if fields ~= '' then
  call('HSET', head, 'fields', fields)
  if call('EXISTS', run) == 0 then call('XADD', run, '0-1', 'h', fields) end
  local current = P .. 'key:' .. key
  local number = string.sub(member, 1, 20)
  local there = call('HGET', current, 'number')
  if not there or there <= number then call('HSET', current, 'number', number, 'run', id) end
elseif keyed == '1' then
  call('SET', P .. 'cand:' .. key .. ':' .. request, id, 'PX', ms, 'NX')
end
if behind ~= '' and call('EXISTS', run) == 1 then
  local after = call('XRANGE', run, '(' .. behind, '+')
  for _, e in ipairs(after) do call('XDEL', run, e[1]) end
  if after[1] then call('XSETID', run, behind) end
end
for _, k in ipairs({head, run, P .. 'key:' .. key, P .. 'below:' .. key}) do later(k, ms) end
local e = call('XREVRANGE', run, '+', '-', 'COUNT', 1)
if not e[1] then return {'', '0', '0', ''} end
local seq, part = string.match(e[1][1], '^(%d+)-(%d+)')
if seq == '0' then return {'', '0', '0', ''} end
return {'', seq, part, e[1][2][1] == 'm' and '1' or ''}
"""
)

# prefix, ms, run… : they are under way → 1
REFRESH: Final = (
    _COMMON
    + """
for i = 3, #ARGV do
  local head = P .. 'head:' .. ARGV[i]
  local key = call('HGET', head, 'key')
  if key then
    for _, k in ipairs({head, P .. 'run:' .. ARGV[i], P .. 'key:' .. key, P .. 'below:' .. key}) do
      later(k, ARGV[2])
    end
  end
end
return 1
"""
)
